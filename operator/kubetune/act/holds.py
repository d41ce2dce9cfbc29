"""Holds what runs elsewhere can't be reached without: their target, its Secrets and certificates.

As ``kubernetes.io/pvc-protection`` does for claims: a finalizer keeps an object that is deleted
until nothing needs it any more. It is added before a run is even recorded, and taken away by the
last object that needs it, once the status of that says that nothing of it runs: so whatever a
status records is held, and an operator that starts again finds what it needs. What one that ended
in between leaves is taken away by the next, which knows from the same status what was held.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.names import IN_USE, IN_USE_FROM
from kubetune.observe.cache import ObjectCache
from kubetune.observe.references import TARGET_KINDS
from kubetune.queue import Key

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Of a patch that others' writes overtake."""


def users_namespaces(annotations: Mapping[str, str]) -> set[str]:
    """Where Secrets are held for a cluster-wide target, by its own word."""
    told = annotations.get(IN_USE_FROM, "")
    return {namespace for namespace in told.split(",") if namespace}


class Holds:
    """Who needs what, in memory, and the finalizers that say so.

    ``changed`` is called with an object whose users have changed.
    """

    def __init__(
        self, client: KubernetesClient, cache: ObjectCache, changed: Callable[[Key], None]
    ) -> None:
        self._client = client
        self._cache = cache
        self._changed = changed
        self._needs: dict[Key, frozenset[Key]] = {}
        self._users: defaultdict[Key, set[Key]] = defaultdict(set)
        self._locks: defaultdict[Key, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._held: set[Key] = set()
        """Objects that were seen with the finalizer."""
        self._missing: set[Key] = set()
        """Objects that are needed and were not there: whoever uses them says so, and waits."""
        self._free: set[Key] = set()
        """Objects that were seen without the finalizer, or are gone."""
        self._noted: defaultdict[Key, set[str]] = defaultdict(set)
        """Namespaces that a cluster-wide object was seen to name as those of its users."""

    def users(self, key: Key) -> list[Key]:
        """Who needs an object."""
        return sorted(self._users.get(key, ()))

    def note(self, user: Key, needed: frozenset[Key]) -> None:
        """Know that an object needs others; their finalizers are there since it was started."""
        for key in needed - self._needs.get(user, frozenset()):
            self._users[key].add(user)
            self._changed(key)
        self._needs[user] = self._needs.get(user, frozenset()) | needed

    async def take(self, user: Key, needed: frozenset[Key]) -> list[Key]:
        """Hold what a run needs that is about to start; what of it is missing.

        What the object needs already stays held. Raises ApiError and its like.
        """
        self.note(user, needed)
        return await self._hold(needed)

    async def keep(self, user: Key, needed: frozenset[Key]) -> None:
        """Hold what an object needs, and nothing else for it. Raises ApiError and its like.

        What was found to be missing is not looked for again.
        """
        self.note(user, needed)
        await self._hold(needed - self._missing)
        await self._drop(user, self._needs[user] - needed)
        self._needs[user] = needed

    async def _hold(self, needed: frozenset[Key]) -> list[Key]:
        unseen = {key for key in needed if key not in self._held or self._unnoted(key)}
        # What is cluster-wide first: it says in which namespaces Secrets are held.
        order = sorted(unseen, key=lambda key: (key.namespace, key))
        return [key for key in order if not await self._add(key)]

    async def leave(self, user: Key, needed: Iterable[Key] = ()) -> None:
        """An object needs nothing any more. Raises ApiError and its like; may be repeated.

        ``needed`` is what it needed by its record: an operator before this one may have ended
        before it could let go of that.
        """
        await self._drop(user, {*self._needs.get(user, ()), *needed})
        self._needs.pop(user, None)

    async def renew(self, users: Iterable[Key]) -> None:
        """Give finalizers back that somebody's replacement of an object has dropped."""
        for key in sorted(self.needed_by(users)):
            self._held.discard(key)
            await self._add(key)

    def needed_by(self, users: Iterable[Key]) -> set[Key]:
        """All that these need."""
        return {key for user in users for key in self._needs.get(user, ())}

    async def release(self, keys: Iterable[Key], *, forced: bool) -> None:
        """Take the finalizers of these away; ``forced`` also where somebody needs them."""
        for key in keys:
            async with self._locks[key]:
                if forced or not self._users.get(key):
                    await self._remove(key)

    def _unnoted(self, key: Key) -> set[str]:
        """Namespaces of users that a cluster-wide object doesn't name yet."""
        if key.namespace:
            return set()
        return {user.namespace for user in self._users.get(key, ())} - self._noted[key]

    async def _drop(self, user: Key, keys: Iterable[Key]) -> None:
        # Targets last: an operator that starts after a crash finds the others by them.
        for key in sorted(keys, key=lambda key: (key.kind in TARGET_KINDS, key)):
            if user in self._users.get(key, ()):
                self._users[key].discard(user)
                self._changed(key)
            async with self._locks[key]:
                # Another one may have come while this waited.
                if not self._users.get(key):
                    if key not in self._free:
                        await self._remove(key)
                    self._users.pop(key, None)

    async def _add(self, key: Key) -> bool:
        """Whether the object is there."""
        async with self._locks[key]:
            if self._users.get(key) and (key not in self._held or self._unnoted(key)):
                # Also when no answer comes.
                self._free.discard(key)
                if not await self._write(key, held=True):
                    self._missing.add(key)
                    return False
                self._missing.discard(key)
                self._held.add(key)
        return True

    async def _remove(self, key: Key) -> None:
        await self._write(key, held=False)
        self._held.discard(key)
        self._free.add(key)
        self._noted.pop(key, None)

    def _change(self, key: Key, metadata: JsonObject, *, held: bool) -> JsonObject | None:
        """What must be written of an object; None when it is as it has to be."""
        change: JsonObject = {}
        finalizers: list[str] = metadata.get("finalizers") or []
        if (IN_USE in finalizers) != held and not (held and "deletionTimestamp" in metadata):
            wanted = [name for name in finalizers if name != IN_USE]
            change["finalizers"] = [*wanted, IN_USE] if held else wanted
        if not key.namespace:
            known = users_namespaces(metadata.get("annotations") or {})
            now = {user.namespace for user in self._users.get(key, ())} if held else set[str]()
            self._noted[key] = known | now
            if held and not now <= known:
                change["annotations"] = {IN_USE_FROM: ",".join(sorted(known | now))}
            elif not held and known:
                change["annotations"] = {IN_USE_FROM: None}
        # The version makes this fail when somebody else changed it in between.
        return {"resourceVersion": metadata["resourceVersion"], **change} if change else None

    async def _write(self, key: Key, *, held: bool) -> bool:
        """Whether the object is there; with the finalizer, if we may write it."""
        for attempt in range(ATTEMPTS):
            try:
                metadata = (await self._client.get(*key))["metadata"]
                change = self._change(key, metadata, held=held)
                if change is None:
                    return True
                written = await self._client.patch(*key, {"metadata": change})
                if key.kind in TARGET_KINDS:
                    self._cache.put(written)
            except NotFoundError:
                return False
            except ConflictError:
                if attempt == ATTEMPTS - 1:
                    raise
            except (ForbiddenError, InvalidError) as error:
                # An admin may not let the operator write Secrets: then they aren't held.
                logger.warning("%s %s/%s can't be held: %s", *key, error)
                return True
            else:
                return True
        return True

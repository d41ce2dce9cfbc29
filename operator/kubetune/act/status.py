"""The one status write of a reconcile, and only if something changed."""

from __future__ import annotations

from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import ConditionDict, status_of
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.observe.cache import ObjectCache
from kubetune.queue import Key, WorkQueue


def status_patch(old: JsonObject, new: JsonObject) -> JsonObject | None:
    """A merge patch that turns one status into the other; None when they are equal."""
    changes = _difference(old, new)
    return {"status": changes} if changes else None


def _difference(old: JsonObject, new: JsonObject) -> JsonObject:
    changes: JsonObject = {}
    for key in old.keys() - new.keys():
        changes[key] = None
    for key, value in new.items():
        before = old.get(key)
        if before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            changes[key] = _difference(before, value)
        else:
            changes[key] = value
    return changes


def with_times_kept(old: JsonObject, new: JsonObject) -> JsonObject:
    """The new status, whose conditions say since when they have been as they are.

    Several decisions may stand between both: a condition that one of them took away, and another
    one has set as it was, hasn't changed. Nor has the order of conditions.
    """
    if not isinstance(new.get("conditions"), list):
        return new
    known: dict[str, ConditionDict] = {item["type"]: item for item in old.get("conditions") or ()}
    places = {kind: place for place, kind in enumerate(known)}
    set_now: list[ConditionDict] = new["conditions"]
    kept: list[ConditionDict] = []
    for item in set_now:
        before = known.get(item["type"])
        same = before is not None and before["status"] == item["status"]
        time = before["lastTransitionTime"] if before and same else item["lastTransitionTime"]
        timed = item.copy()
        timed["lastTransitionTime"] = time
        kept.append(timed)
    kept.sort(key=lambda item: places.get(item["type"], len(places)))
    return new | {"conditions": kept}


class StatusWriter:
    """Writes a status over what is there."""

    def __init__(self, cache: ObjectCache, client: KubernetesClient, queue: WorkQueue) -> None:
        self._cache = cache
        self._client = client
        self._queue = queue

    async def write(self, key: Key, uid: str, status: JsonObject) -> None:
        """Write it if it says something new, to the object with this uid. Raises ApiError."""
        before = self._cache.get(*key)
        if before is None or before["metadata"]["uid"] != uid:
            # Gone, or another object has taken its name.
            return
        # To what is there by now: an effect may have written before.
        there = status_of(before)
        patch = status_patch(there, with_times_kept(there, status))
        if patch is None:
            return
        # The version: a patch that comes late, after we gave up on its answer, must not undo
        # a later one, nor reach another object of this name (a uid in it would be ignored).
        patch["metadata"] = {"resourceVersion": before["metadata"]["resourceVersion"]}
        try:
            written = await self._client.patch(*key, patch, subresource="status")
        except NotFoundError:
            # Deleted while we looked: nobody is left to tell, but runs may be left to end.
            self._cache.drop(before)
            return
        unseen = _declared(written) != _declared(before)
        self._cache.put(written)
        if unseen:
            # Our answer overtook somebody's change, whose event will now look old.
            self._queue.add(key)


def _declared(body: JsonObject) -> tuple[Any, ...]:
    """What others decide about an object."""
    metadata = body["metadata"]
    fields = ("uid", "generation", "deletionTimestamp", "annotations", "finalizers")
    return tuple(metadata.get(field) for field in fields)

"""What still runs elsewhere of objects that are gone: ended some time after the operator's start.

An object whose finalizer was taken away, as a PUT does, goes at once when it is deleted. While the
operator runs it knows what that had; what happens while none runs is told by what was made in the
places that targets lead to. What was left there since, as the place was away, is ended when that is
back.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import (
    AnyStatusDict,
    DatasetStatusDict,
    ModelStatusDict,
    PromptTemplateStatusDict,
    status_of,
)
from kubetune.api.kinds.table import INSPECTED, RUNNING
from kubetune.clients.kubernetes import REFUSALS, KubernetesClient, NotFoundError
from kubetune.decide.inspected.inspection import inspection_run_key
from kubetune.keys import Keyring
from kubetune.names import RUN_KEY, run_key_is_ours
from kubetune.observe.cache import ObjectCache
from kubetune.queue import Key
from kubetune.targets.dispatch import Backends
from kubetune.targets.errors import BackendError
from kubetune.targets.values import Made, RunAddress

logger = logging.getLogger(__name__)

Address = tuple[str, ...]
"""What tells a place outside of the cluster from another."""


class LeftBehind:
    """Looks once into each place that a target leads to, and again when something was left."""

    def __init__(
        self,
        cache: ObjectCache,
        client: KubernetesClient,
        backend: Backends,
        keys: Keyring,
        install_id: str,
        settle_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        self._cache = cache
        self._client = client
        self._backend = backend
        self._keys = keys
        self._install_id = install_id
        self._clock = clock
        # Not at once: objects may be on their way, as from a backup.
        self._begin = clock() + timedelta(seconds=settle_seconds)
        self._done: dict[tuple[Key, Address], int] = {}
        """What was left in a place by the time that it was looked through for a target."""
        self._left: Counter[Address] = Counter()
        """How often something was left in a place."""

    def note(self, address: RunAddress) -> None:
        """Runs are let go that may still run: look through their place once it answers."""
        if address.target is not None and address.target.address:
            self._left[address.target.address] += 1

    async def end(
        self, key: Key, target: ComputeTargetSpec | None, namespace: str, *, away: bool
    ) -> bool:
        """End what still runs; False while it is too early for that.

        What can't be ended now, as when the place is ``away``, is left to the next call.
        ``key`` is the target's, ``namespace`` the one whose credentials are used to look.
        """
        if target is None or target.block is None or not target.address:
            return True
        place, place_name = target.address, target.block.place_name
        left = self._left[place]
        if self._done.get((key, place)) == left:
            return True
        if self._clock() < self._begin:
            return False
        if away:
            return True
        try:
            # What was left may have been made since the last look.
            found = await self._backend.made_for(namespace, target, self._install_id, fresh=True)
            for made in found:
                owner = made.owner
                # What others have there is for targets of their own namespaces.
                ours = key.namespace in ("", owner.namespace) and owner.kind in RUNNING
                if made.kept or not ours or self._is_forged(made) or await self._is_there(made):
                    continue
                logger.warning(
                    "%s %s/%s is gone, and its runs with run key %s are ended in %s",
                    *(owner.kind, owner.namespace, owner.name, made.run_key, place_name),
                )
                address = RunAddress(owner, made.run_key, target, settled=True)
                await self._backend.delete(address)
        except BackendError as error:
            logger.info("what is left in %s isn't known: %s", place_name, error)
            return True
        self._done[key, place] = left
        return True

    def _is_forged(self, made: Made) -> bool:
        """Whether the run key of a FineTuneJob isn't one that was made here."""
        owner = made.owner
        return owner.kind == "FineTuneJob" and not run_key_is_ours(
            made.run_key, self._keys, self._install_id, owner.namespace, owner.name
        )

    async def _is_there(self, made: Made) -> bool:
        owner = made.owner
        known = self._cache.get(owner.kind, owner.namespace, owner.name)
        if known is not None and _has(known, made, self._keys):
            return True
        # A watch may be down, or not show everything.
        try:
            found = await self._client.get(owner.kind, owner.namespace, owner.name)
        except NotFoundError:
            return False
        except REFUSALS:
            return True
        return _has(found, made, self._keys)


def _has(body: dict[str, Any], made: Made, keys: Keyring) -> bool:
    """Whether it is the owner, or one that has taken the run over, as from a backup."""
    if body["metadata"]["uid"] != made.owner.uid:
        return made.run_key in claimed_by(body)
    if made.owner.kind not in INSPECTED:
        return True
    # Another source, or another target, has an inspection of its own.
    status: DatasetStatusDict | ModelStatusDict | PromptTemplateStatusDict = status_of(body)
    state = status.get("inspection") or {}
    return made.run_key == inspection_run_key(keys, made.owner, state.get("key", ""))


async def taken_over(client: KubernetesClient, address: RunAddress) -> bool:
    """Whether another object of the owner's name has the runs by now, as one from a backup."""
    owner = address.owner
    try:
        body = await client.get(owner.kind, owner.namespace, owner.name)
    except (NotFoundError, *REFUSALS):
        return False
    return body["metadata"]["uid"] != owner.uid and address.run_key in claimed_by(body)


def claimed_by(body: dict[str, Any]) -> set[str]:
    """The run key that a FineTuneJob says to be its own."""
    status: AnyStatusDict = status_of(body)
    told = (
        status.get("runKey"),
        (body["metadata"].get("annotations") or {}).get(RUN_KEY),
    )
    return {key for key in told if key}

"""Holds what each object needs while it may have runs, and lets go of it afterwards."""

from __future__ import annotations

from kubetune.act.holds import Holds
from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import AnyStatusDict, status_of
from kubetune.api.kinds.table import INSPECTED, RUNNING
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.observe.cache import ObjectCache, key_of
from kubetune.observe.needs import may_run, needs_of
from kubetune.observe.references import TARGET_KINDS
from kubetune.queue import Key, WorkQueue


class Needs:
    """Keeps the holds true to what the objects say."""

    def __init__(self, cache: ObjectCache, client: KubernetesClient, queue: WorkQueue) -> None:
        self._cache = cache
        self._queue = queue
        self.holds = Holds(client, cache, self._changed)

    def restore(self) -> None:
        """Know who needs what, by what is listed; before the first object is looked at."""
        for kind in RUNNING:
            for body in self._cache.under_way(kind):
                status: AnyStatusDict = status_of(body)
                if may_run(body, status):
                    self.holds.note(key_of(body), needs_of(self._cache, body, status))

    async def hold(self, body: JsonObject, status: AnyStatusDict) -> None:
        """Hold what an object needs by the status that is about to be written."""
        key = key_of(body)
        if key.kind not in RUNNING:
            return
        if not may_run(body, status):
            if key.kind in INSPECTED:
                # With the status goes the record of what is held, and nothing waits without it.
                await self.holds.leave(key)
        elif "deletionTimestamp" not in body["metadata"]:
            # One that is deleted has held it since its start, and may have let go just now.
            await self.holds.keep(key, needs_of(self._cache, body, status))

    async def let_go(self, body: JsonObject) -> None:
        """Hold nothing for an object whose status, as it is written, says that nothing runs.

        Not before: whoever looks next would need it to see the same again.
        """
        status: AnyStatusDict = status_of(body)
        if body["kind"] in RUNNING and not may_run(body, status):
            await self.holds.leave(key_of(body), needs_of(self._cache, body, status))

    def _changed(self, key: Key) -> None:
        """Who needs an object has changed; a target that is deleted says so."""
        body = self._cache.get(*key) if key.kind in TARGET_KINDS else None
        if body is not None and "deletionTimestamp" in body["metadata"]:
            self._queue.add(key)

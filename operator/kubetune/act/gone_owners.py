"""Ends what still runs of objects that had a name and went without their finalizer."""

from __future__ import annotations

import logging

from kubetune.act.left_behind import claimed_by
from kubetune.api import JsonObject
from kubetune.api.kinds.table import RUNNING
from kubetune.queue import Key, WorkQueue
from kubetune.targets.dispatch import Backends
from kubetune.targets.errors import BackendError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 30.0


class GoneOwners:
    """Has the targets end what an operator knows of an object that is gone."""

    def __init__(self, backend: Backends, queue: WorkQueue) -> None:
        self._backend = backend
        self._queue = queue

    async def end_runs(self, key: Key, body: JsonObject | None) -> None:
        """``body`` is the object that has the name now, if any; it doesn't wait for the others.

        Raises BackendError when nobody has the name and the runs can't be ended yet.
        """
        if key.kind not in RUNNING:
            return
        try:
            if body is None:
                await self._backend.delete_for_gone_owner(*key)
            else:
                uid = body["metadata"]["uid"]
                await self._backend.delete_for_gone_owner(*key, uid, claimed_by(body))
        except BackendError as error:
            logger.warning("runs of %s %s/%s, which is gone, remain: %s", *key, error)
            if body is None:
                raise
            self._queue.add_after(key, RETRY_SECONDS)

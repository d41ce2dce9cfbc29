"""Which runs the poller reads the progress of, and for which object."""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key
from kubetune.tracking.base import TrackingError
from kubetune.tracking.poller import ProgressPoller

logger = logging.getLogger(__name__)


class FollowedRuns:
    """The followed run keys of each object."""

    def __init__(self, trackers: Trackers, poller: ProgressPoller[Key]) -> None:
        self._trackers = trackers
        self._poller = poller
        self._followed: dict[Key, AbstractSet[str]] = {}

    async def follow(
        self, key: Key, place: ComputeTargetSpec | None, run_keys: AbstractSet[str]
    ) -> None:
        """Follow these runs of an object, which are at ``place``, and no others."""
        if place is None or not run_keys:
            self.forget(key)
            return
        try:
            found = await self._trackers.of(place, key.namespace)
        except TrackingError as error:
            logger.warning("progress of %s/%s can't be read: %s", key.namespace, key.name, error)
            return
        experiment = place.tracking.experiment_in(key.namespace)
        for gone in self._followed.get(key, frozenset[str]()) - run_keys:
            self._poller.unwatch(gone)
        for run_key in run_keys:
            self._poller.watch(found.key, found.tracker, run_key, experiment, key)
        self._followed[key] = run_keys

    def forget(self, key: Key) -> None:
        """Follow no run of an object any more."""
        for run_key in self._followed.pop(key, frozenset[str]()):
            self._poller.unwatch(run_key)

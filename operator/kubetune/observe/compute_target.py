"""Observation of a ComputeTarget or ClusterComputeTarget: what it names is asked."""

from __future__ import annotations

from collections.abc import Sequence

from kubetune.decide.consent import of_target
from kubetune.decide.resources import TargetResource
from kubetune.decide.target.states import ObservedTarget
from kubetune.observe.cache import ObjectCache, key_of
from kubetune.observe.consent import Consents
from kubetune.observe.objects import default_targets
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key
from kubetune.settings import Settings
from kubetune.targets.dispatch import Backends


class TargetObserver:
    """Builds what decide needs to know of a target."""

    def __init__(
        self,
        cache: ObjectCache,
        consents: Consents,
        backend: Backends,
        trackers: Trackers,
        settings: Settings,
    ) -> None:
        self._cache = cache
        self._consents = consents
        self._backend = backend
        self._trackers = trackers
        self._settings = settings

    async def observe(self, target: TargetResource, users: Sequence[Key]) -> ObservedTarget:
        """A target and the newest probe; ``users`` have runs that need it."""
        namespace = target.owner.namespace or self._settings.operator_namespace
        lacking, probe, place = None, None, None
        if (spec := target.spec) is not None and (users or not target.deleting):
            lacking = await self._consents.lacking(namespace, of_target(spec), spec)
            if not lacking:
                place = await self._backend.probe(spec, namespace)
            if not lacking and (place is None or place.reason is None):
                probe = await self._trackers.probe(spec, namespace)
        return ObservedTarget(
            target,
            lacking,
            probe,
            self._settings.target_probe_seconds,
            place,
            [f"{user.kind} {user.namespace}/{user.name}" for user in users],
            [key_of(other).name for other in default_targets(self._cache, target.owner.namespace)],
        )

"""ComputeTarget and ClusterComputeTarget."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from kubetune.act.holds import Holds
from kubetune.act.left_behind import LeftBehind
from kubetune.act.release import Release
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.controllers.base import Forgetful
from kubetune.decide.decision import TargetDecision
from kubetune.decide.resources import TargetResource
from kubetune.decide.target import states
from kubetune.decide.target.states import ObservedTarget
from kubetune.observe.compute_target import TargetObserver
from kubetune.observe.objects import key_of_resource


class ComputeTargetController(Forgetful[ObservedTarget]):
    """What a target leads to is asked; what went unseen is ended there, and its holds renewed."""

    kinds = frozenset({"ComputeTarget", "ClusterComputeTarget"})

    def __init__(
        self,
        observer: TargetObserver,
        holds: Holds,
        release: Release,
        left_behind: LeftBehind,
        operator_namespace: str,
    ) -> None:
        self._observer = observer
        self._holds = holds
        self._release = release
        self._left_behind = left_behind
        self._operator_namespace = operator_namespace

    async def observe(self, resource: TargetResource, kept: None) -> ObservedTarget:
        """A target and the newest probe, once what went unseen is seen to."""
        key = key_of_resource(resource)
        users = self._holds.users(key)
        observed = await self._observer.observe(resource, users)
        if users and not observed.lacking:
            # Else there is nothing to hold until it is made again.
            await self._holds.renew(users)
        # Before anything lets the Secret go that is needed for it.
        namespace = key.namespace or self._operator_namespace
        place = observed.place_probe
        away = bool(observed.lacking or (place and place.reason))
        settled = await self._left_behind.end(key, resource.spec, namespace, away=away)
        if settled:
            await self._release.unused(resource)
        return replace(observed, settling=not settled)

    def decide(self, observed: ObservedTarget, now: datetime) -> TargetDecision:
        """See kubetune.decide.target.states."""
        return states.decide(observed, now)

    def place(self, observed: ObservedTarget) -> ComputeTargetSpec | None:
        """A target has no runs of its own."""
        return None

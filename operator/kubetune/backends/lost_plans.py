"""Whether the plan of a run that waits on its node is still there: a user may have deleted it.

A pod whose ConfigMap is missing waits without end and says little of why. Nobody watches our
ConfigMaps, so they are asked for, when a pod has been set up for some seconds, and then rarely.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kubetune.api.conditions import Reason
from kubetune.backends.base import Owner, RunState
from kubetune.backends.manifests import plan_name
from kubetune.backends.pods import phase_of
from kubetune.backends.worker_pods import workers_of
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.names import service_name

JsonObject = dict[str, Any]

FIRST_SECONDS = 5.0
"""So long a node may take to set a pod up."""
NEXT_SECONDS = 30.0
MAX_JOBS = 10_000


@dataclass
class _Asked:
    due: float
    missing: str = ""


class LostPlans:
    """Adds to the state of runs that what they were given is gone."""

    def __init__(
        self, client: KubernetesClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._clock = clock
        self._asked: dict[str, _Asked] = {}

    async def told(
        self, state: RunState, job: JsonObject, pods: list[JsonObject], owner: Owner, run_key: str
    ) -> RunState:
        """The state, with what is missing for a pod that its node sets up."""
        uid: str = job["metadata"]["uid"]
        set_up = any(
            phase_of(pod) == "Pending" and pod.get("spec", {}).get("nodeName") for pod in pods
        )
        if state.phase != "pending" or not set_up:
            self._asked.pop(uid, None)
            return state
        now = self._clock()
        if uid not in self._asked:
            if len(self._asked) >= MAX_JOBS:
                # Of Jobs that have gone meanwhile.
                self._asked.clear()
            self._asked[uid] = _Asked(now + FIRST_SECONDS)
        asked = self._asked[uid]
        if now >= asked.due:
            asked.missing = await self._missing(owner, run_key, workers_of(job))
            asked.due = now + NEXT_SECONDS
        wait = max(asked.due - now, 0.1)
        if not asked.missing:
            return replace(state, look_again_seconds=wait)
        return replace(
            state,
            reason=str(Reason.PLAN_MISSING),
            message=f"{asked.missing}, which the run needs, was deleted",
            lacks_plan=True,
            look_again_seconds=wait,
        )

    def made(self, job: JsonObject) -> None:
        """What the Job needs was made just now."""
        self._asked.pop(job["metadata"]["uid"], None)

    async def _missing(self, owner: Owner, run_key: str, workers: int) -> str:
        wanted = [("ConfigMap", plan_name(owner, run_key, workers))]
        if workers > 1:
            wanted.append(("Service", service_name(run_key)))
        for kind, name in wanted:
            try:
                await self._client.get(kind, owner.namespace, name)
            except NotFoundError:
                return f"{kind} {name}"
        return ""

"""Whether the plan of a run that waits on its node is still there: a user may have deleted it.

A pod whose ConfigMap is missing waits without end and says little of why. Nobody watches our
ConfigMaps, so they are asked for, when a pod has been set up for some seconds, and then rarely.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.clients.kubernetes import ApiError, KubernetesClient, NotFoundError
from kubetune.clients.pods import phase_of
from kubetune.keys import Keyring
from kubetune.names import service_name
from kubetune.targets.kubernetes.manifests import plan_name
from kubetune.targets.kubernetes.ownership import has_mark, is_owned
from kubetune.targets.kubernetes.rare_questions import RareQuestions
from kubetune.targets.kubernetes.worker_pods import processes_of, workers_of
from kubetune.targets.values import Owner, RunState

FIRST_SECONDS = 5.0
"""So long a node may take to set a pod up."""
NEXT_SECONDS = 30.0


class LostPlans:
    """Adds to the state of runs that what they were given is gone."""

    def __init__(
        self,
        client: KubernetesClient,
        keys: Keyring,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._keys = keys
        self._questions = RareQuestions(_pause, clock)

    async def told(
        self, state: RunState, job: JsonObject, pods: list[JsonObject], owner: Owner, run_key: str
    ) -> RunState:
        """The state, with what is missing for a pod that its node sets up."""
        uid: str = job["metadata"]["uid"]
        set_up = any(
            phase_of(pod) == "Pending" and pod.get("spec", {}).get("nodeName") for pod in pods
        )
        if state.phase != "pending" or not set_up:
            self._questions.forget(uid)
            return state

        async def ask(last: str) -> str:
            try:
                return await self._missing(job, owner, run_key)
            except ApiError:
                # Only the reason is missing: without the right to read it, too.
                return last

        missing, wait = await self._questions.answer(uid, ask)
        if not missing:
            return replace(state, look_again_seconds=wait)
        return replace(
            state,
            reason=str(Reason.PLAN_MISSING),
            message=f"{missing}, which the run needs, was deleted or replaced",
            lacks_plan=True,
            look_again_seconds=wait,
        )

    def made(self, job: JsonObject) -> None:
        """What the Job needs was made just now."""
        self._questions.forget(job["metadata"]["uid"])

    async def _missing(self, job: JsonObject, owner: Owner, run_key: str) -> str:
        workers = workers_of(job)
        wanted = [("ConfigMap", plan_name(owner, run_key, workers, processes_of(job)))]
        if workers > 1:
            wanted.append(("Service", service_name(run_key)))
        for kind, name in wanted:
            try:
                found = await self._client.get(kind, owner.namespace, name)
            except NotFoundError:
                return f"{kind} {name}"
            if not (is_owned(found, owner) and has_mark(found, self._keys)):
                # To be looked at before anything is made of it.
                return f"{kind} {name}"
        return ""


def _pause(seconds: float) -> float:
    return NEXT_SECONDS if seconds else FIRST_SECONDS

"""Why a Job has no pods: the Job controller tells it in Events alone, which nobody watches.

They are asked for when a Job has been without a pod for some seconds, and then less and less often.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.clients.kubernetes import ApiError, KubernetesClient
from kubetune.targets.kubernetes.rare_questions import RareQuestions
from kubetune.targets.sentences import short
from kubetune.targets.values import RunState

FIRST_SECONDS = 3.0
"""So long a cluster may take to make a pod."""
SLOWEST_SECONDS = 30.0
MAX_EVENTS = 20


def is_quota(message: str) -> bool:
    """Whether the API server refused something for a ResourceQuota."""
    return "exceeded quota" in message or "status unknown for quota" in message


class PodRefusals:
    """Adds to the state of runs why their Jobs get no pods."""

    def __init__(
        self, client: KubernetesClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._questions = RareQuestions(_pause, clock)

    async def told(self, state: RunState, job: JsonObject) -> RunState:
        """The state, with what the Job controller says when it can make no pod."""
        uid: str = job["metadata"]["uid"]
        if not state.lacks_pods:
            self._questions.forget(uid)
            return state

        async def ask(last: str) -> str:
            return await self._ask(job) or last

        text, wait = await self._questions.answer(uid, ask)
        if not text:
            return replace(state, look_again_seconds=wait)
        reason = Reason.QUOTA_EXCEEDED if is_quota(text) else Reason.PODS_REFUSED
        name = job["metadata"]["name"]
        message = short(f"Job {name} gets no pod: {text}")
        return replace(state, reason=str(reason), message=message, look_again_seconds=wait)

    async def _ask(self, job: JsonObject) -> str:
        """The newest refusal; empty without one."""
        metadata = job["metadata"]
        chosen = f"involvedObject.uid={metadata['uid']},reason=FailedCreate"
        try:
            answer = await self._client.request(
                "GET",
                f"/api/v1/namespaces/{metadata['namespace']}/events",
                query={"fieldSelector": chosen, "limit": str(MAX_EVENTS)},
            )
        except ApiError:
            # Only the reason is missing: without the right to read Events, too.
            return ""
        events: list[JsonObject] = answer.get("items") or []
        newest = max(events, key=_time, default=None)
        return str((newest or {}).get("message") or "")


def _pause(seconds: float) -> float:
    return min(max(FIRST_SECONDS, seconds / 2), SLOWEST_SECONDS)


def _time(event: JsonObject) -> str:
    series: JsonObject = event.get("series") or {}
    metadata: JsonObject = event["metadata"]
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or metadata.get("creationTimestamp")
        or ""
    )

"""Which of several workers' pods tells how an attempt stands, and how it ended.

When one worker fails, the others lose it and end too, and the Job controller stops the rest. The
one to blame is the first that has a reason of its own.
"""

from __future__ import annotations

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.run.outcome import WORKER_LOST, Outcome
from kubetune.clients.pods import condition, is_live, phase_of, terminated_state
from kubetune.targets.sentences import short

_INDEX = "batch.kubernetes.io/job-completion-index"
_MAX_DIGITS = 6
_ABORTED = 134
_LAST = "9999"
"""Sorts behind every time."""


def workers_of(job: JsonObject) -> int:
    """How many pods the Job has at a time."""
    return int(job["spec"].get("completions") or 1)


def processes_of(job: JsonObject) -> int:
    """How many processes train in each pod, as the Job tells."""
    annotations = job["metadata"].get("annotations") or {}
    text = annotations.get(names.PROCESSES) or ""
    # Anybody with rights on Jobs may write it.
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else 1


def number_of(pod: JsonObject | None) -> int | None:
    """Which worker a pod of an indexed Job is."""
    metadata = (pod or {}).get("metadata", {})
    text = (metadata.get("annotations") or {}).get(_INDEX) or ""
    # Anybody with rights on pods may write it.
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


def slowest(pods: list[JsonObject]) -> JsonObject | None:
    """Of the pods that have not ended, one that waits, else one that is being moved away."""
    live = sorted(
        (pod for pod in pods if is_live(pod)),
        key=lambda pod: number_of(pod) or 0,
    )
    for wanted in (lambda pod: phase_of(pod) == "Pending", _is_disrupted, lambda _: True):
        for pod in live:
            if wanted(pod):
                return pod
    return None


def telling(pods: list[JsonObject], *, failed: bool) -> JsonObject | None:
    """The pod that says how the attempt ended: worker 0's, or that of the one to blame."""
    first = next((pod for pod in pods if number_of(pod) == 0), None)
    if not failed:
        return first
    ended = sorted((pod for pod in pods if phase_of(pod) == "Failed"), key=_end)
    for wanted in (_has_own_reason, _was_told_to_stop, lambda pod: pod is first, lambda _: True):
        for pod in ended:
            if wanted(pod):
                return pod
    return first


def named(pod: JsonObject | None, workers: int, text: str) -> str:
    """A sentence about the worker of a pod."""
    number = number_of(pod)
    return short(f"worker {number} of {workers}: {text}") if number is not None else text


def _is_disrupted(pod: JsonObject) -> bool:
    return condition(pod, "DisruptionTarget") is not None


def _has_own_reason(pod: JsonObject) -> bool:
    outcome = _outcome(pod)
    if _is_disrupted(pod):
        return True
    if outcome is None and terminated_state(pod).get("exitCode") == _ABORTED:
        # How NCCL ends a process whose peer is gone.
        return False
    return outcome is None or (outcome.status == "failed" and outcome.reason != WORKER_LOST)


def _was_told_to_stop(pod: JsonObject) -> bool:
    outcome = _outcome(pod)
    return outcome is not None and outcome.status == "interrupted"


def _outcome(pod: JsonObject) -> Outcome | None:
    return Outcome.from_message(terminated_state(pod).get("message"))


def _end(pod: JsonObject) -> tuple[str, int]:
    return terminated_state(pod).get("finishedAt") or _LAST, number_of(pod) or 0

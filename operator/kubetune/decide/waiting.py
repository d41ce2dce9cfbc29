"""Why something waits."""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.api.conditions import AttemptResult, Phase, Reason
from kubetune.api.kinds.status_types import AttemptCountsDict, AttemptDict
from kubetune.decide.retries import MAX_PREEMPTED


def evicted_too_often(newest: AttemptDict, counts: AttemptCountsDict) -> str:
    """A sentence when no other attempt follows the eviction of the newest one, else empty."""
    preempted = counts["preempted"]
    if newest["result"] != AttemptResult.PREEMPTED or preempted <= MAX_PREEMPTED:
        return ""
    return (
        f"evicted or preempted {preempted} times, and at most {MAX_PREEMPTED} are repeated for"
        " free: choose another place, or a higher priority"
    )


@dataclass(frozen=True)
class NotReady:
    """Why a job or an evaluation can't be submitted."""

    phase: Phase
    reason: Reason
    message: str
    refused: bool = False
    """Only a change by the user helps."""
    look_again_seconds: float | None = None
    """Where nothing tells of the change."""

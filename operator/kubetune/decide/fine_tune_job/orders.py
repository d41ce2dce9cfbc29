"""Who had the last run of a FineTuneJob stopped, as its status remembers."""

from __future__ import annotations

from kubetune.api.conditions import AttemptResult, ConditionType, Reason
from kubetune.api.kinds.status_types import AttemptDict, FineTuneJobStatusDict
from kubetune.decide.decision import condition_in


def was_suspended(status: FineTuneJobStatusDict) -> bool:
    """Whether the last stop was ordered by a suspension."""
    running = condition_in(status, ConditionType.RUNNING)
    return running is not None and running["reason"] == Reason.SUSPENDED


def told_to_stop(status: FineTuneJobStatusDict) -> Reason | None:
    """For whom the last stop counts as ours; None when nobody has ordered one."""
    if was_suspended(status):
        return Reason.SUSPENDED
    return Reason.QUEUED_TOO_LONG if was_queueing_too_long(status) else None


def was_queueing_too_long(status: FineTuneJobStatusDict) -> bool:
    """Whether the last stop was ordered since a run had queued for too long."""
    running = condition_in(status, ConditionType.RUNNING)
    return running is not None and running["reason"] == Reason.QUEUED_TOO_LONG


def stopped_in_time(status: FineTuneJobStatusDict, newest: AttemptDict | None) -> bool:
    """Whether the deadline had the newest attempt stopped; the target's clock may not show it."""
    if newest is None or newest["result"] != AttemptResult.STOPPED:
        return False
    return ended_by_deadline(status) is not None


def ended_by_deadline(status: FineTuneJobStatusDict) -> int | None:
    """The generation whose deadline has ordered the last stop; None when it was something else."""
    running = condition_in(status, ConditionType.RUNNING)
    if running is None or running["reason"] != Reason.DEADLINE_EXCEEDED:
        return None
    return running.get("observedGeneration") or 0

"""Who had the last run of a FineTuneJob stopped, as its status remembers."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType, Reason
from kubetune.decide.decision import condition_in


def was_suspended(status: JsonObject) -> bool:
    """Whether the last stop was ordered by a suspension."""
    return condition_in(status, ConditionType.RUNNING).get("reason") == Reason.SUSPENDED


def stopped_in_time(status: JsonObject, newest: JsonObject | None) -> bool:
    """Whether the deadline had the newest attempt stopped; the target's clock may not show it."""
    return (newest or {}).get("result") == "Stopped" and ended_by_deadline(status) is not None


def ended_by_deadline(status: JsonObject) -> int | None:
    """The generation whose deadline has ordered the last stop; None when it was something else."""
    running = condition_in(status, ConditionType.RUNNING)
    if running.get("reason") != Reason.DEADLINE_EXCEEDED:
        return None
    return int(running.get("observedGeneration") or 0)

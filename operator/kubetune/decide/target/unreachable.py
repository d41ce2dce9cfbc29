"""An object whose target can't be asked about its runs, or no longer names a tracking server."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.decide.decision import Decision, Running, Status, conditions_of, with_conditions
from kubetune.decide.resources import Resource, Target, TargetProblem
from kubetune.decide.retries import TARGET_SECONDS


def target_unreachable(
    job: Resource[Any, Status], problem: TargetProblem, now: datetime
) -> Decision[Status]:
    """Say so, and change nothing else: what is known of the attempts stays."""
    conditions = conditions_of(job.status, job.generation, now)
    conditions.set(ConditionType.TARGET_AVAILABLE, False, problem.reason, problem.message)
    conditions.waiting(problem.reason, problem.message)
    status = with_conditions(job.status, conditions)
    return Decision(status=status, requeue_after=TARGET_SECONDS)


def with_phase(decision: Decision[Running]) -> Decision[Running]:
    """The same of an object that may not have got a phase before."""
    if decision.status is not None:
        decision.status.setdefault("phase", Phase.PENDING)
    return decision


def tracker_unreachable(
    place: ComputeTargetSpec | None, target: Target, error: str, reason: Reason
) -> tuple[Reason, str] | None:
    """Reason and sentence why the tracking server has not answered; None where none is known.

    ``place`` is where the runs are, ``error`` what came instead of an answer, and ``reason`` its
    kind.
    """
    if place is None:
        # It is the target that says which server it would be.
        return Reason.TARGET_MISSING, target.why_not
    return (reason, error) if error else None

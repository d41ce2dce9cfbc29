"""A deleted object whose runs can't be reached, or don't stop: when it goes without them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from kubetune.api.conditions import AT_REST, Phase, Reason
from kubetune.decide.decision import (
    AbandonRuns,
    Action,
    Decision,
    Record,
    ReleaseFinalizer,
    Running,
    Status,
)
from kubetune.decide.resources import (
    AnyResource,
    EvaluationResource,
    FineTuneJobResource,
    Resource,
    TargetProblem,
)
from kubetune.decide.target.unreachable import target_unreachable
from kubetune.names import ABANDON_RUNS

PATIENCE = timedelta(seconds=30)
"""How long a finished object waits for a target that may answer again."""
_ACCESS_GONE = frozenset(
    {
        Reason.TARGET_MISSING,
        Reason.CREDENTIALS_INVALID,
        Reason.PROJECT_MISSING,
        Reason.PACKAGE_MISSING,
    }
)


def is_forced(resource: AnyResource) -> bool:
    """Whether somebody wants it gone, whatever runs on."""
    return resource.annotations.get(ABANDON_RUNS) == "true"


def is_over(resource: FineTuneJobResource | EvaluationResource) -> bool:
    """Whether nothing of it runs any more; what is left is no more than entries and files."""
    return resource.status.get("phase") in AT_REST


def ended(resource: Resource[Any, Running], clean_up: Sequence[Action]) -> Decision[Running]:
    """Let a deleted object go of which nothing runs elsewhere any more, and say that first.

    What its runs can't be reached without is let go before itself. An operator that ends in
    between would leave behind what seems to run in a place that nobody can ask.
    """
    if resource.status.get("phase") in AT_REST:
        return Decision((*clean_up, ReleaseFinalizer()))
    status = resource.status.copy()
    status["phase"] = Phase.CANCELLED
    say = Record("phase", Phase.CANCELLED)
    return Decision((*clean_up, say, ReleaseFinalizer()), status)


def without_target(
    resource: Resource[Any, Status],
    problem: TargetProblem,
    run_keys: Sequence[str],
    now: datetime,
    *,
    over: bool,
) -> Decision[Status]:
    """Deleted while its target can't be asked: wait where something may run, else let go.

    ``over`` tells that nothing of it runs that is worth waiting for.
    """
    patience_ends = (resource.deleted or now) + PATIENCE
    hopeless = problem.reason in _ACCESS_GONE or now >= patience_ends
    if is_forced(resource) or (over and hopeless):
        return let_go(run_keys, problem.message)
    owner = resource.owner
    advice = (
        f"{problem.message}; deletion waits, since its runs may continue. To let it go and leave"
        f" them behind: kubectl annotate {owner.kind.lower()} {owner.name} -n {owner.namespace}"
        f" {ABANDON_RUNS}=true"
    )
    waiting = target_unreachable(resource, TargetProblem(problem.reason, advice), now)
    if not over:
        return waiting
    return Decision((), waiting.status, (patience_ends - now).total_seconds())


def let_go(run_keys: Sequence[str], why: str) -> Decision[Any]:
    """Leave the runs where they are, and say so."""
    return Decision((*(AbandonRuns(key, why) for key in run_keys), ReleaseFinalizer()))

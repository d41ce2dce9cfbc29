"""The deletion of an Evaluation by somebody, or by its own time to live."""

from __future__ import annotations

from datetime import datetime

from kubetune.decide.decision import (
    Decision,
    DeleteRuns,
    EvaluationDecision,
    OrphanRuns,
    ReleaseFinalizer,
)
from kubetune.decide.evaluation.observed import ObservedEvaluation
from kubetune.decide.target.letting_go import ended, is_over, without_target
from kubetune.decide.target.unreachable import with_phase
from kubetune.names import FINALIZER
from kubetune.targets.table import facts_of


def delete(observed: ObservedEvaluation, now: datetime) -> EvaluationDecision:
    """Deleted: runs that would outlive it go first, as nobody else collects them."""
    evaluation = observed.evaluation
    if FINALIZER not in evaluation.finalizers:
        return Decision()
    run_keys = [item.run_key for item in observed.candidates if item.run_key]
    if not facts_of(observed.started).runs_outlive_owner:
        # Nothing was submitted, or it goes with its owner.
        return Decision((ReleaseFinalizer(),))
    if observed.lets_runs_go:
        return Decision((*(OrphanRuns(run_key) for run_key in run_keys), ReleaseFinalizer()))
    over = is_over(evaluation)
    if observed.target_problem:
        return with_phase(
            without_target(evaluation, observed.target_problem, run_keys, now, over=over)
        )
    return ended(evaluation, [DeleteRuns(run_key, needed=not over) for run_key in run_keys])

"""The deletion of an Evaluation by somebody, or by its own time to live."""

from __future__ import annotations

from datetime import datetime

from kubetune.decide.decision import Decision, DeleteRuns, OrphanRuns, ReleaseFinalizer
from kubetune.decide.evaluation.observed import ObservedEvaluation
from kubetune.decide.target.letting_go import ended, is_over, without_target
from kubetune.names import FINALIZER
from kubetune.targets.table import facts_of


def delete(observed: ObservedEvaluation, now: datetime) -> Decision:
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
    if observed.target_problem:
        return without_target(evaluation, observed.target_problem, run_keys, now)
    needed = not is_over(evaluation)
    return ended(evaluation, [DeleteRuns(run_key, needed=needed) for run_key in run_keys])

"""The deletion of an Evaluation by somebody, or by its own time to live."""

from __future__ import annotations

from datetime import datetime

from kubetune.decide.decision import Decision, DeleteRuns, ReleaseFinalizer
from kubetune.decide.evaluation_observed import ObservedEvaluation
from kubetune.decide.target_away import target_away
from kubetune.names import FINALIZER


def delete(observed: ObservedEvaluation, now: datetime) -> Decision:
    """Deleted: jobs of CML go first, as nobody else collects them."""
    if FINALIZER not in observed.evaluation.finalizers:
        return Decision()
    if observed.target.spec is None:
        # Where its jobs are is not known any more; a namespace that is deleted must not wait.
        return Decision((ReleaseFinalizer(),))
    if observed.target_problem:
        return target_away(observed.evaluation, observed.target_problem, now)
    jobs = tuple(DeleteRuns(item.run_key) for item in observed.candidates if item.run_key)
    return Decision((*jobs, ReleaseFinalizer()))

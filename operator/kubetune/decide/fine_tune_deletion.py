"""The end of a FineTuneJob object: deletion by somebody, or by its own time to live."""

from __future__ import annotations

from datetime import datetime

from kubetune.api.conditions import TERMINAL_PHASES, Phase, Reason
from kubetune.backends.base import FINISHED
from kubetune.decide import limits
from kubetune.decide.decision import (
    Action,
    Decision,
    DeleteRuns,
    OrphanRuns,
    ReleaseFinalizer,
    StopRuns,
    conditions_of,
)
from kubetune.decide.fine_tune_observed import ObservedJob
from kubetune.decide.target_away import target_away
from kubetune.names import FINALIZER


def delete(observed: ObservedJob, now: datetime) -> Decision:
    """Deleted: stop or cut loose what runs, remove what would stay, then let go."""
    job = observed.job
    if FINALIZER not in job.finalizers:
        return Decision()
    live = [run for run in observed.runs if run.phase not in FINISHED]
    orphan = job.spec is not None and job.spec.deletion_policy == "Orphan"
    if orphan and (live or observed.outlives_owner or observed.target_problem):
        cut = (OrphanRuns(observed.run_key),) if live else ()
        return Decision((*cut, ReleaseFinalizer()))
    if observed.target_problem:
        return target_away(observed.job, observed.target_problem, now)
    if not live:
        # Kubernetes collects what belongs to the job; elsewhere nobody does.
        over = job.status.get("phase") in TERMINAL_PHASES
        clean_up = (DeleteRuns(observed.run_key, over),) if observed.outlives_owner else ()
        return Decision((*clean_up, ReleaseFinalizer()))
    conditions = conditions_of(job.status, job.generation, now)
    conditions.waiting(Reason.DELETED, "the job is deleted: waiting for its run to stop")
    status = job.status | {
        "observedGeneration": job.generation,
        "phase": str(Phase.STOPPING),
        "conditions": conditions.current,
    }
    return Decision((StopRuns(observed.run_key),), status)


def after_end(observed: ObservedJob, now: datetime) -> Decision:
    """Over: only the time to live may act, and nothing may be left running."""
    job = observed.job
    stop: tuple[Action, ...] = ()
    if any(run.phase not in FINISHED and run.phase != "stopping" for run in observed.runs):
        # The end was written before the run was gone: see to it until it is.
        stop = (StopRuns(observed.run_key),)
    ttl = job.spec.ttl_seconds_after_finished if job.spec else None
    return limits.after_end(job, ttl, stop, now)

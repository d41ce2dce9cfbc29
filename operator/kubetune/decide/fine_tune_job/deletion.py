"""The end of a FineTuneJob object: deletion by somebody, or by its own time to live."""

from __future__ import annotations

from datetime import datetime

from kubetune.api.conditions import TERMINAL_PHASES, ConditionType, Phase, Reason
from kubetune.decide import limits
from kubetune.decide.decision import (
    Action,
    Decision,
    DeleteRuns,
    FineTuneJobDecision,
    OrphanRuns,
    ReleaseFinalizer,
    StopRuns,
    condition_is,
    conditions_of,
    with_conditions,
)
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.resources import ModelResource
from kubetune.decide.target.letting_go import ended, is_forced, is_over, let_go, without_target
from kubetune.decide.target.unreachable import with_phase
from kubetune.names import FINALIZER
from kubetune.targets.values import FINISHED


def delete(observed: ObservedJob, now: datetime) -> FineTuneJobDecision:
    """Deleted: stop or cut loose what runs, remove what would stay, then let go."""
    job = observed.job
    if FINALIZER not in job.finalizers:
        return Decision()
    # What was cut loose before, as by the garbage collector, isn't the job's to stop.
    live = [run for run in observed.runs if run.phase not in FINISHED and not run.foreign]
    policy = job.spec.deletion_policy if job.spec else None
    if policy == "Orphan" or observed.lets_runs_go:
        cut = (OrphanRuns(observed.run_key),) if live else ()
        return Decision((*cut, ReleaseFinalizer()))
    if observed.started is None and not live:
        # Nothing was ever submitted.
        return Decision((ReleaseFinalizer(),))
    if observed.target_problem:
        return with_phase(
            without_target(
                job, observed.target_problem, (observed.run_key,), now, over=is_over(job)
            )
        )
    if not live:
        # Kubernetes collects what belongs to the job; elsewhere nobody does.
        if not observed.outlives_owner:
            return Decision((ReleaseFinalizer(),))
        over = is_over(job)
        return ended(job, [DeleteRuns(observed.run_key, settled=over, needed=not over)])
    if is_forced(job) and all(run.phase == "stopping" for run in live):
        return let_go((observed.run_key,), "they were told to stop, and still run")
    conditions = conditions_of(job.status, job.generation, now)
    conditions.waiting(Reason.DELETED, "the job is deleted: waiting for its run to stop")
    status = with_conditions(job.status, conditions)
    if job.status.get("phase") not in TERMINAL_PHASES:
        # A verdict stays, also when a run shows that was believed to have ended.
        status["phase"] = Phase.STOPPING
    again = [run.look_again_seconds for run in live if run.look_again_seconds]
    return Decision((StopRuns(observed.run_key),), status, min(again, default=None))


def is_stalled(resource: ModelResource) -> bool:
    """Whether only a change by the user helps it."""
    seen = resource.status.get("observedGeneration") == resource.generation
    return seen and condition_is(resource.status, ConditionType.STALLED)


def after_end(observed: ObservedJob, now: datetime) -> FineTuneJobDecision:
    """Over: only the time to live applies, and nothing may be left running."""
    job = observed.job
    stop: tuple[Action, ...] = ()
    if any(run.phase not in FINISHED and run.phase != "stopping" for run in observed.runs):
        # The end was written before the run was gone: see to it until it is.
        stop = (StopRuns(observed.run_key),)
    ttl = job.spec.ttl_seconds_after_finished if job.spec else None
    output = observed.output
    if ttl is not None and output is not None and not (output.is_ready or is_stalled(output)):
        # It was made from the job, which explains it as long as it isn't there.
        return limits.after_end(job, None, stop, now)
    return limits.after_end(job, ttl, stop, now)

"""FineTuneJob: the numbered list of its states.

The first state that fits decides. Once a run was submitted its inputs are frozen in the plan;
once the job is over nothing starts it again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from kubetune.api.conditions import (
    TERMINAL_PHASES,
    AttemptResult,
    ConditionType,
    Phase,
    Reason,
)
from kubetune.api.kinds.status_types import AttemptDict
from kubetune.decide.deadline import (
    TOLD,
    is_over,
)
from kubetune.decide.decision import (
    Decision,
    FindIdentical,
    FineTuneJobDecision,
    Stamp,
    StartRun,
    StopRuns,
    conditions_of,
    rfc3339,
    with_conditions,
)
from kubetune.decide.fine_tune_job import result
from kubetune.decide.fine_tune_job.deletion import after_end, delete
from kubetune.decide.fine_tune_job.draft import Draft, begin, fail
from kubetune.decide.fine_tune_job.finished_run import seek_finished
from kubetune.decide.fine_tune_job.inputs import Inputs, freeze, resolve
from kubetune.decide.fine_tune_job.kept_steps import keeps_steps, lost
from kubetune.decide.fine_tune_job.observed import (
    ObservedJob,
    merged_name,
    promotion_demands,
    registry_alias,
    registry_name,
)
from kubetune.decide.fine_tune_job.orders import stopped_in_time, was_queueing_too_long
from kubetune.decide.fine_tune_job.outcome_from_tracker import (
    seek_outcome,
    with_outcome_from_tracker,
)
from kubetune.decide.fine_tune_job.running import (
    expire,
    follow,
    queue_no_longer,
    wait_no_longer,
)
from kubetune.decide.identity import with_identity
from kubetune.decide.memory.automatic import in_words
from kubetune.decide.memory.batch import batch_of, halvings, plan_of, with_batch, with_batches
from kubetune.decide.memory.fit import check_memory
from kubetune.decide.memory.out_of_memory import no_more_memory, with_memory_advice
from kubetune.decide.resources import TargetProblem
from kubetune.decide.retries import (
    BACKOFF_LIMIT,
    NOT_WATCHED,
    RIVAL_SECONDS,
    TRACKER_SECONDS,
    Retry,
    after_attempt,
    retry_of,
    until_secret,
)
from kubetune.decide.strays import with_strays_stopped
from kubetune.decide.target.place import before_start
from kubetune.decide.target.unreachable import target_unreachable, with_phase
from kubetune.decide.waited import halted, read
from kubetune.decide.waiting import NotReady, evicted_too_often


def decide(observed: ObservedJob, now: datetime) -> FineTuneJobDecision:
    """What to do for a FineTuneJob."""
    decision = with_identity(observed, _decide(observed, now))
    return with_strays_stopped(decision, [(observed.run_key, observed.runs)])


def _decide(observed: ObservedJob, now: datetime) -> FineTuneJobDecision:
    job = observed.job

    # 1. Deletion: stop or cut loose what runs, then let go.
    if job.deleting:
        return delete(observed, now)

    # 2. Over: only the time to live applies.
    if job.status.get("phase") in TERMINAL_PHASES:
        return after_end(observed, now)

    # 3. The spec can't be read.
    if job.spec is None:
        conditions = conditions_of(job.status, job.generation, now)
        conditions.stalled(Reason.INVALID_SPEC, job.problem)
        return Decision(status=with_conditions(job.status, conditions))

    # 4. The target can't be asked: nothing is known, so nothing changes.
    if observed.target_problem:
        return _unknown(observed, observed.target_problem, now)

    # 5. A run failed without an outcome: the tracked run may have it.
    if (seeking := seek_outcome(observed)) is not None:
        return seeking
    observed = with_memory_advice(with_outcome_from_tracker(observed))

    draft = begin(observed, job.spec, now)
    if draft.counts["total"] and "lineage" not in draft.status:
        # A run was started, and the operator ended before it could write what it froze.
        freeze(draft.status, draft.counts, resolve(observed))
    if settings := draft.status.get("effective"):
        with_batches(draft.attempts, job.status.get("attempts") or (), settings)

    # 6. A run has succeeded: no clock and no suspension takes that back.
    newest = draft.newest
    if newest and newest["result"] == AttemptResult.SUCCEEDED and not draft.live:
        return result.finish(draft)

    # 7. Suspended.
    if job.spec.suspend:
        return _suspend(draft)

    # 8. A run lives: follow it, and keep it within the deadline.
    if draft.live:
        return follow(draft, draft.live[-1])

    # 9. The newest attempt has ended, or was lost: what it said of itself, then the deadline.
    over = is_over(draft.left, newest) or stopped_in_time(job.status, newest)
    told = newest is not None and newest.get("reason") in TOLD
    failed = newest and newest["result"] == AttemptResult.FAILED and not (over and told)
    if newest and failed and (verdict := _failed_for_good(draft, newest)):
        return verdict
    if over:
        return (seek_finished(draft) if _left_no_word(draft, newest) else None) or expire(draft)
    if newest and newest["result"] == AttemptResult.STOPPED and (why := newest.get("reason")):
        return _cancelled(draft, newest, why)
    if newest and draft.queued_out:
        never_ran = was_queueing_too_long(job.status) and "startTime" not in newest
        asks = _left_no_word(draft, newest) and not never_ran
        return (seek_finished(draft) if asks else None) or queue_no_longer(draft)
    if newest and newest["result"] in (AttemptResult.FAILED, AttemptResult.PREEMPTED):
        if problem := evicted_too_often(newest, draft.counts):
            return fail(draft, Reason.DISRUPTED, problem, retryable=True)
        first, free = draft.observed.retry_seconds, _halvings(draft)
        wait = after_attempt(newest, draft.counts, first, draft.now, free=free)
        if wait > 0 or (draft.smaller_batch and not _is_recorded(observed, newest)):
            # What the next one trains with follows from what the status says of this one.
            return _wait_for_retry(draft, newest, max(wait, 0.0))

    # 10. Nothing runs: submit, when everything is there.
    return _submit(draft, draft.counts["total"] + 1)


def _unknown(observed: ObservedJob, problem: TargetProblem, now: datetime) -> FineTuneJobDecision:
    """What it says while nobody knows what runs: as before, and clocks go on."""
    job = observed.job
    decision = with_phase(target_unreachable(job, problem, now))
    if job.spec is None or decision.status is None:
        return decision
    if job.spec.suspend:
        return replace(decision, status=halted(decision.status, now))
    clock = read(job.status.get("waitTime"), now)
    left = clock.left(job.spec.waiting_deadline_seconds)
    if left is None or clock.since is None or "external" in job.status:
        return decision
    if left <= 0:
        # Nothing was ever sent there.
        return wait_no_longer(begin(observed, job.spec, now), problem.message)
    return replace(decision, requeue_after=min(left, decision.requeue_after or left))


def _suspend(draft: Draft) -> FineTuneJobDecision:
    draft.conditions.remove(ConditionType.RECONCILING)
    draft.conditions.remove(ConditionType.STALLED)
    if draft.live:
        draft.phase(Phase.STOPPING)
        message = "the job is suspended: waiting for its run to stop"
        if any(run.phase != "stopping" for run in draft.live):
            draft.actions.append(StopRuns(draft.observed.run_key))
    else:
        draft.phase(Phase.SUSPENDED)
        message = "spec.suspend is true: nothing runs until it is false"
    message += lost(draft.status, draft.observed.place)
    draft.conditions.set(ConditionType.RUNNING, False, Reason.SUSPENDED, message)
    draft.conditions.set(ConditionType.READY, False, Reason.SUSPENDED, message)
    return draft.decision()


def _cancelled(draft: Draft, newest: AttemptDict, reason: str) -> FineTuneJobDecision:
    """Somebody stopped the run where it ran: it was meant."""
    message = f"attempt {newest['number']}: {newest.get('message') or 'it was stopped'}"
    decision = fail(draft, reason, f"{message}; make a new job to train again")
    draft.phase(Phase.CANCELLED)
    return decision


def _failed_for_good(draft: Draft, newest: AttemptDict) -> FineTuneJobDecision | None:
    run = next((run for run in draft.observed.runs if run.attempt == newest["number"]), None)
    reason = newest.get("reason") or Reason.RUN_FAILED
    message = newest.get("message") or f"attempt {newest['number']} failed"
    match retry_of(reason, run.outcome if run else None):
        case Retry.NEVER:
            return fail(draft, reason, message)
        case Retry.BY_MEMORY:
            if draft.smaller_batch:
                return None
            if why := no_more_memory(draft.attempts, draft.status.get("effective") or {}):
                return fail(draft, reason, f"{message} ({why})")
        case _:
            pass
    failed, limit = draft.counts["failed"] - _halvings(draft), _backoff_limit(draft)
    if failed <= limit:
        return None
    if (run is None or run.outcome is None) and (seeking := seek_finished(draft)):
        return seeking
    note = f"{message} ({failed} failed attempts, spec.backoffLimit is {limit})"
    if reason == Reason.RUN_LOST:
        return fail(draft, Reason.BACKOFF_LIMIT_EXCEEDED, note, retryable=True)
    return fail(draft, reason, note, retryable=True)


def _is_recorded(observed: ObservedJob, attempt: AttemptDict) -> bool:
    """Whether the status says already how the attempt ended."""
    known = observed.job.status.get("attempts") or ()
    running = AttemptResult.RUNNING
    return any(item["number"] == attempt["number"] and item["result"] != running for item in known)


def _halvings(draft: Draft) -> int:
    """Failures that had a smaller batch as their consequence, and don't count."""
    settings = draft.status.get("effective")
    return halvings(draft.newest, settings) if settings else 0


def _left_no_word(draft: Draft, newest: AttemptDict | None) -> bool:
    """Whether the newest attempt may have ended well: its Job or pod went before it was seen."""
    if newest is None:
        return False
    run = next((run for run in draft.observed.runs if run.attempt == newest["number"]), None)
    return run is None or (run.outcome is None and not run.exit_code)


def _backoff_limit(draft: Draft) -> int:
    effective = draft.status.get("effective") or {}
    if "backoffLimit" in effective:
        return int(effective["backoffLimit"])
    return draft.spec.backoff_limit if draft.spec.backoff_limit is not None else BACKOFF_LIMIT


def _wait_for_retry(draft: Draft, newest: AttemptDict, wait: float) -> FineTuneJobDecision:
    newest.setdefault("endTime", rfc3339(draft.now))
    draft.phase(Phase.QUEUED)
    why = newest.get("message") or newest.get("reason") or "it failed"
    smaller = draft.smaller_batch
    changed = f" with {smaller.in_words}" if smaller else ""
    message = f"attempt {newest['number']}: {why}; the next one follows{changed}"
    message += lost(draft.status, draft.observed.place)
    reason = Reason.DISRUPTED if newest["result"] == AttemptResult.PREEMPTED else Reason.RETRYING
    draft.conditions.set(ConditionType.RUNNING, False, reason, message)
    draft.conditions.waiting(reason, message)
    return draft.decision(wait)


def _submit(draft: Draft, attempt: int) -> FineTuneJobDecision:
    observed, conditions = draft.observed, draft.conditions
    if attempt > 1 and (seeking := seek_finished(draft)):
        return seeking
    inputs = resolve(observed)
    if isinstance(inputs, NotReady):
        return _wait_for_inputs(draft, inputs)
    settings = freeze(draft.status, draft.counts, inputs)
    # A backup may have brought back what the job was; what it has frozen is known only now.
    draft.waits = attempt > 1 or "external" not in observed.job.status
    if attempt == 1 and (seeking := seek_finished(draft)):
        if draft.waits and draft.waited_out and observed.answers.tracking_error:
            return wait_no_longer(draft, observed.answers.tracking_error)
        return seeking
    draft.waits = True
    batch = batch_of(attempt, draft.attempts, settings)
    tried = with_batch(settings, batch)
    if too_large := check_memory(observed, tried, draft.status, conditions):
        return _wait_for_inputs(draft, too_large)
    chosen = in_words(settings)
    message = "all inputs are there and fit" + (f"; {chosen}" if chosen else "")
    conditions.set(ConditionType.INPUTS_READY, True, Reason.INPUTS_READY, message)
    if not (observed.stamped and observed.recorded):
        draft.status["runKey"] = observed.run_key
        stamp = Stamp(finalizer=True, run_key=observed.run_key, fresh=observed.fresh)
        draft.actions.append(stamp)
    if waiting := _reuse(draft, inputs):
        return waiting
    draft.status["external"], before = before_start(
        draft.status.get("external") or {},
        observed.started,
        observed.target,
        observed.job.owner.namespace,
        [observed.run_key],
        observed.job.status.get("phase"),
    )
    draft.actions += before
    own = plan_of(batch, settings)
    draft.actions.append(StartRun(inputs.request(observed, attempt, settings, draft.left, own)))
    draft.status.setdefault("startTime", rfc3339(draft.now))
    draft.phase(Phase.QUEUED)
    if attempt > 1 and observed.target.spec and not keeps_steps(settings, observed.target.spec):
        draft.status.pop("progress", None)
    message = f"attempt {attempt} is submitted to {observed.target.label}"
    conditions.set(ConditionType.SUBMITTED, True, Reason.QUEUED, message)
    conditions.waiting(Reason.QUEUED, message)
    return draft.decision()


def _wait_for_inputs(draft: Draft, missing: NotReady) -> FineTuneJobDecision:
    draft.waits = True
    draft.phase(missing.phase)
    draft.conditions.set(ConditionType.INPUTS_READY, False, missing.reason, missing.message)
    if draft.waited_out:
        return wait_no_longer(draft, missing.message)
    if missing.refused:
        draft.conditions.stalled(missing.reason, missing.message)
        # Nothing tells of a rival job that fails or is deleted.
        taken = missing.reason == Reason.OUTPUT_MODEL_TAKEN
        return draft.decision(RIVAL_SECONDS if taken else None)
    draft.conditions.waiting(missing.reason, missing.message)
    wait = missing.look_again_seconds
    if missing.reason in NOT_WATCHED:
        wait = until_secret(draft.observed.job.waiting_since, draft.now)
    return draft.decision(wait)


def _reuse(draft: Draft, inputs: Inputs) -> FineTuneJobDecision | None:
    """Adopt a registered version with the same lineage instead of training again."""
    observed, name = draft.observed, registry_name(draft.observed)
    if name is None or draft.spec.reuse == "Never" or draft.counts["total"]:
        return None
    answers, merged = observed.answers, merged_name(observed)
    # Registered last, so an adapter without its merged model was not finished.
    if answers.identical and (merged is None or answers.identical_merged):
        draft.status["result"] = {"reused": True}
        return result.adopt(draft, answers.identical, answers.identical_merged)
    if answers.identical_sought or (
        answers.identical_merged_sought and not answers.identical_merged
    ):
        if answers.doubt:
            draft.conditions.set(
                ConditionType.REUSED, False, answers.doubt.reason, answers.doubt.message
            )
        return None
    if answers.tracking_refused:
        message = f"the registry can't be asked for {name}: {answers.tracking_refused}"
        return fail(draft, Reason.TRACKING_REFUSED, message)
    draft.phase(Phase.PREPARING)
    if answers.tracking_error:
        if draft.waited_out:
            return wait_no_longer(draft, answers.tracking_error)
        # Training before the registry was asked could cost a GPU for nothing.
        draft.conditions.waiting(answers.tracking_reason, answers.tracking_error)
    else:
        draft.conditions.waiting(
            Reason.SEEKING_IDENTICAL, "asking the registry for an identical version"
        )
    digest = inputs.plan.lineage_digest
    # Metrics of that version aren't known here, so a gate leaves the alias where it is.
    alias = None if promotion_demands(observed) else registry_alias(observed)
    if merged and not answers.identical_merged:
        draft.actions.append(FindIdentical(merged, digest, alias, merged=True))
    else:
        draft.actions.append(FindIdentical(name, digest, alias))
    return draft.decision(TRACKER_SECONDS)

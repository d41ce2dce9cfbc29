"""A FineTuneJob whose run is live: what the status says of it, and what limits its time."""

from __future__ import annotations

from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.decide.deadline import enforce
from kubetune.decide.decision import FineTuneJobDecision, StartRun, StopRuns
from kubetune.decide.fine_tune_job.draft import Draft, fail
from kubetune.decide.fine_tune_job.inputs import freeze, resolve
from kubetune.decide.fine_tune_job.kept_steps import may_lose
from kubetune.decide.fine_tune_job.orders import was_suspended
from kubetune.decide.lineage import changed_parts
from kubetune.decide.memory.batch import batch_of, plan_of
from kubetune.decide.target.place import moved_from
from kubetune.decide.waiting import NotReady
from kubetune.targets.table import facts_of
from kubetune.targets.values import RunState


def expire(draft: Draft) -> FineTuneJobDecision:
    """No attempt has time left: the job fails."""
    return fail(draft, Reason.DEADLINE_EXCEEDED, f"{_too_long(draft)}: make a new job with more")


def _too_long(draft: Draft) -> str:
    seconds = draft.spec.active_deadline_seconds
    return f"its runs took longer than spec.activeDeadlineSeconds, {seconds} s in all"


def follow(draft: Draft, run: RunState) -> FineTuneJobDecision:
    """Say how the newest run stands, and keep it within the deadline."""
    conditions = draft.conditions
    number = run.attempt
    observed, left = draft.observed, draft.left
    draft.actions += enforce(
        observed.run_key,
        draft.live,
        left,
        draft.now,
        own_limit=facts_of(observed.place).adjusts_limits,
    )
    if left is not None and left <= 0 and run.reason != Reason.ENDING:
        draft.phase(Phase.STOPPING)
        # It may still succeed: the verdict waits for its end.
        message = f"{_too_long(draft)}: attempt {number} is being stopped"
        conditions.set(ConditionType.RUNNING, False, Reason.DEADLINE_EXCEEDED, message)
        conditions.waiting(Reason.DEADLINE_EXCEEDED, message)
    elif run.phase == "running":
        draft.phase(Phase.RUNNING)
        unsure = run.reason == Reason.STATUS_UNKNOWN
        why = run.reason if unsure else Reason.STARTED
        message = run.message if unsure else f"attempt {number} is running"
        note = may_lose(draft.status, observed.place)
        conditions.set(ConditionType.RUNNING, None if unsure else True, why, f"{message}{note}")
        conditions.waiting(why, message)
    elif run.phase == "stopping":
        draft.phase(Phase.STOPPING)
        # Who ordered it must be known when it has stopped.
        why = Reason.SUSPENDED if was_suspended(draft.observed.job.status) else Reason.STOPPING
        message = run.message or f"attempt {number} is being stopped"
        conditions.set(ConditionType.RUNNING, False, why, message)
        conditions.waiting(Reason.STOPPING, message)
    else:
        draft.phase(Phase.QUEUED)
        reason = run.reason or Reason.QUEUED
        message = run.message or f"attempt {number} waits for its pod"
        if run.lacks_plan:
            message = f"{message}; {_make_again(draft, run)}"
        conditions.set(ConditionType.RUNNING, False, reason, message)
        conditions.waiting(reason, message)
    if run.overdue:
        draft.actions.append(StopRuns(draft.observed.run_key))
    _note_tracking(draft)
    return draft.decision()


def _make_again(draft: Draft, run: RunState) -> str:
    """Make what a waiting run was given once more, if it would be the same; says what is done."""
    observed, known = draft.observed, draft.status.get("lineage") or {}
    inputs = resolve(observed)
    if isinstance(inputs, NotReady):
        return f"it can't be made again: {inputs.message}"
    if moved := moved_from(observed.started, observed.target, observed.job.owner.namespace):
        return f"it can't be made again: {moved}"
    changed = changed_parts(inputs.lineage, known)
    if changed:
        return f"it can't be made again as it was ({', '.join(changed)} changed): make a new job"
    settings = freeze(draft.status, draft.counts, inputs)
    own = plan_of(batch_of(run.attempt, draft.attempts, settings), settings)
    request = inputs.request(observed, run.attempt, settings, draft.left, own)
    draft.actions.append(StartRun(request))
    return "it is made again"


def _note_tracking(draft: Draft) -> None:
    """Report a tracking outage while a run is live; say nothing while all is well."""
    answers = draft.observed.answers
    if answers.tracking_error:
        draft.conditions.set(
            ConditionType.TRACKING_AVAILABLE,
            False,
            answers.tracking_reason,
            answers.tracking_error,
        )
    else:
        draft.conditions.remove(ConditionType.TRACKING_AVAILABLE)

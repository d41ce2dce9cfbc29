"""A FineTuneJob whose run is live: what the status says of it, and what limits its time."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.api.rows import loss_rows
from kubetune.decide.deadline import enforce
from kubetune.decide.decision import FineTuneJobDecision, StartRun, StopRuns
from kubetune.decide.fine_tune_job.draft import Draft, fail
from kubetune.decide.fine_tune_job.inputs import freeze, resolve
from kubetune.decide.fine_tune_job.kept_steps import tell_kept
from kubetune.decide.fine_tune_job.orders import told_to_stop, was_queueing_too_long
from kubetune.decide.lineage import changed_parts
from kubetune.decide.memory.batch import batch_of, plan_of
from kubetune.decide.settings.idle import rows_held_out
from kubetune.decide.target.place import moved_from
from kubetune.decide.waited import queued_too_long, queues, waited_too_long
from kubetune.decide.waiting import NotReady
from kubetune.targets.table import facts_of
from kubetune.targets.values import RunState


def expire(draft: Draft) -> FineTuneJobDecision:
    """No attempt has time left: the job fails."""
    return fail(draft, Reason.DEADLINE_EXCEEDED, f"{_too_long(draft)}: make a new job with more")


def wait_no_longer(draft: Draft, what: str) -> FineTuneJobDecision:
    """What it needs didn't come in time: the job fails."""
    limit = draft.spec.waiting_deadline_seconds
    message = waited_too_long(draft.waiting, limit, what)
    # Nothing was started, and nobody is asked any more.
    draft.actions.clear()
    return fail(draft, Reason.WAITED_TOO_LONG, message, retryable=True)


def queue_no_longer(draft: Draft) -> FineTuneJobDecision:
    """No attempt may queue any longer: the job fails."""
    newest = draft.newest
    why = (newest.get("message") if newest else None) or ""
    what = f"attempt {newest['number']}: {why}" if newest and why else ""
    message = f"{_queued_too_long(draft, what)}; make a new job with more, or for less"
    return fail(draft, Reason.QUEUED_TOO_LONG, message, retryable=True)


def _queued_too_long(draft: Draft, what: str) -> str:
    return queued_too_long(draft.queue, draft.spec.queue_deadline_seconds, what)


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
    elif draft.queued_out and _queues(draft, run):
        draft.phase(Phase.STOPPING)
        # It may begin in this moment: the verdict waits for what becomes of it.
        said = _queued_too_long(draft, run.message)
        message = f"{said}: attempt {number} is being taken back"
        conditions.set(ConditionType.RUNNING, False, Reason.QUEUED_TOO_LONG, message)
        conditions.waiting(Reason.QUEUED_TOO_LONG, message)
        if run.phase == "pending":
            draft.actions.append(StopRuns(observed.run_key, unbegun=True))
    elif run.phase == "running":
        draft.phase(Phase.RUNNING)
        unsure = run.reason == Reason.STATUS_UNKNOWN
        why = run.reason if unsure else Reason.STARTED
        message = run.message if unsure else f"attempt {number} is running{_loss_on(draft)}"
        conditions.set(ConditionType.RUNNING, None if unsure else True, why, message)
        conditions.waiting(why, message)
    elif run.phase == "stopping":
        draft.phase(Phase.STOPPING)
        # Who ordered it must be known when it has stopped.
        why = told_to_stop(draft.observed.job.status) or Reason.STOPPING
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
    tell_kept(conditions, draft.status.get("effective") or {}, observed.place)
    _note_tracking(draft)
    return draft.decision()


def _loss_on(draft: Draft) -> str:
    """That not all held-out rows are measured, as the end of a sentence; empty where all are."""
    dataset = draft.observed.dataset
    evaluation: JsonObject = (draft.status.get("effective") or {}).get("evaluation") or {}
    most, held_out = evaluation.get("maxLossRows"), rows_held_out(dataset) if dataset else None
    if most is None or held_out is None or held_out <= most:
        return ""
    return f"; {loss_rows(most, held_out)}"


def _queues(draft: Draft, run: RunState) -> bool:
    """Whether the run waits to begin, or is being taken back since it did so for too long."""
    ordered = was_queueing_too_long(draft.observed.job.status)
    return queues(draft.live) or (ordered and run.phase == "stopping")


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

"""The time limits of an Evaluation: how long it may wait, queue and run, all candidates together.

It runs while at least one of its runs does, queues while none does and one is submitted, and waits
while nothing is submitted and something is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubetune.api.conditions import AttemptResult, CandidatePhase, Reason
from kubetune.decide.deadline import TOLD, enforce, is_over, look_again
from kubetune.decide.decision import EvaluationDecision, FindEvaluation, StartRun, StopRuns
from kubetune.decide.evaluation import result
from kubetune.decide.evaluation.draft import Draft
from kubetune.decide.waited import LOOK_SECONDS, queued_too_long, queues, waited_too_long
from kubetune.targets.table import facts_of
from kubetune.targets.values import RunState


def ran_out(draft: Draft) -> bool:
    """Whether a run was ended by the deadline, by its target or by us."""
    # The clock of a workspace may not show that we had a run stopped at its deadline.
    ordered = {
        item["name"]
        for item in draft.observed.evaluation.status.get("candidates") or ()
        if item.get("reason") == Reason.DEADLINE_EXCEEDED
    }
    for candidate in draft.candidates:
        attempt = candidate.attempt
        if attempt is None or candidate.live or candidate.sought:
            continue
        stopped = attempt["result"] == AttemptResult.STOPPED
        if not (stopped or attempt.get("reason") in TOLD):
            continue
        if is_over(draft.left, attempt) or (stopped and candidate.name in ordered):
            return True
    return False


def keep(draft: Draft) -> None:
    """Keep what runs within the deadline."""
    left, own_limit = draft.left, facts_of(draft.observed.place).adjusts_limits
    everything = [run for candidate in draft.candidates for run in candidate.live]
    for candidate in draft.candidates:
        if not candidate.live:
            continue
        draft.actions += enforce(
            draft.run_key(candidate), candidate.live, left, draft.now, own_limit=own_limit
        )
        if left is not None and left <= 0:
            # It may still succeed: the verdict waits for its end.
            message = f"{_too_long(draft)}: the run is being stopped"
            candidate.say(CandidatePhase.RUNNING, Reason.DEADLINE_EXCEEDED, message)
    _keep_queue(draft, everything)
    if (wait := look_again(left, draft.clock, everything)) is not None:
        draft.waits.append(wait)


def _keep_queue(draft: Draft, live: Sequence[RunState]) -> None:
    """Take back what has queued for too long, unless it begins in this moment."""
    left = draft.queue_left
    if left is None or not queues(live):
        return
    draft.waits.append(left if left > 0 else LOOK_SECONDS)
    if left > 0:
        return
    for candidate in draft.candidates:
        if not candidate.live:
            continue
        if any(run.phase == "pending" for run in candidate.live):
            draft.actions.append(StopRuns(draft.run_key(candidate), unbegun=True))
        said = _queued_too_long(draft, candidate.live[-1].message)
        message = f"{said}: the run is being taken back"
        candidate.say(CandidatePhase.QUEUED, Reason.QUEUED_TOO_LONG, message)


def lacks_queue_time(draft: Draft) -> bool:
    """Whether nothing is submitted, and a candidate needs an attempt that may not queue."""
    left = draft.queue_left
    return left is not None and left <= 0 and _needs_another(draft)


def queue_no_longer(draft: Draft) -> EvaluationDecision:
    """No run of it may queue any longer: it fails."""
    message = (
        f"{_queued_too_long(draft)}; make a new Evaluation with more; what is measured isn't"
        " measured again"
    )
    return result.fail(draft, Reason.QUEUED_TOO_LONG, message)


def lacks_waiting_time(draft: Draft) -> bool:
    """Whether what it waits for didn't come in time.

    What the tracking server was asked just now is waited for, as long as it answers.
    """
    left = draft.waiting_left
    if left is None or left > 0 or not draft.lacks_inputs:
        return False
    if any(isinstance(action, StartRun) for action in draft.actions):
        return False
    asks = any(isinstance(action, FindEvaluation) for action in draft.actions)
    return not asks or bool(draft.observed.answers.tracking_error)


def wait_no_longer(draft: Draft, what: str) -> EvaluationDecision:
    """What it needs didn't come in time: it fails."""
    limit = draft.spec.waiting_deadline_seconds
    message = waited_too_long(draft.waiting, limit, what)
    return result.fail(draft, Reason.WAITED_TOO_LONG, message)


def _queued_too_long(draft: Draft, what: str = "") -> str:
    return queued_too_long(draft.queue, draft.spec.queue_deadline_seconds, what)


def lacks_time(draft: Draft) -> bool:
    """Whether nothing runs, and a candidate needs an attempt that has no time left."""
    return draft.left is not None and draft.left <= 0 and _needs_another(draft)


def _needs_another(draft: Draft) -> bool:
    """Whether nothing is under way, and a candidate isn't measured yet."""
    if any(candidate.live or candidate.sought for candidate in draft.candidates):
        return False
    return any(not candidate.settled and not candidate.measured for candidate in draft.candidates)


def expire(draft: Draft) -> EvaluationDecision:
    """Its time is over: it fails, and what is measured can be taken over by another one."""
    message = (
        f"{_too_long(draft)}: make a new Evaluation with more; what is measured isn't measured"
        " again"
    )
    return result.fail(draft, Reason.DEADLINE_EXCEEDED, message)


def _too_long(draft: Draft) -> str:
    seconds = draft.spec.active_deadline_seconds
    return f"its runs took longer than spec.activeDeadlineSeconds, {seconds} s in all"

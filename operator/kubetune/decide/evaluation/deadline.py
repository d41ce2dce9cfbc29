"""activeDeadlineSeconds of an Evaluation: the time in which at least one of its runs is live."""

from __future__ import annotations

from kubetune.api.conditions import AttemptResult, CandidatePhase, Reason
from kubetune.decide.deadline import TOLD, enforce, is_over, look_again
from kubetune.decide.decision import EvaluationDecision
from kubetune.decide.evaluation import result
from kubetune.decide.evaluation.draft import Draft
from kubetune.targets.table import facts_of


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
    if (wait := look_again(left, draft.clock, everything)) is not None:
        draft.waits.append(wait)


def lacks_time(draft: Draft) -> bool:
    """Whether nothing runs, and a candidate needs an attempt that has no time left."""
    if draft.left is None or draft.left > 0:
        return False
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

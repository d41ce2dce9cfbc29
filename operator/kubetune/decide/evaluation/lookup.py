"""What became of an attempt of a candidate, from its outcome or from what it has tracked."""

from __future__ import annotations

from kubetune.api.conditions import CandidatePhase, Reason
from kubetune.api.kinds.status_types import AttemptDict
from kubetune.api.run.evaluation_plan import EvaluationSummary
from kubetune.decide.decision import (
    DeleteRuns,
    FindEvaluation,
    SignMeasurement,
    StartRun,
    StopRuns,
)
from kubetune.decide.evaluation.candidate import CandidateDraft, follow, settle, summary_of
from kubetune.decide.evaluation.draft import Draft
from kubetune.decide.evaluation.inputs import CandidateInputs, candidate_inputs, shared_inputs
from kubetune.decide.fine_tune_job.progress import count_as_succeeded
from kubetune.decide.retries import TRACKER_SECONDS
from kubetune.decide.target.place import moved_from
from kubetune.decide.target.unreachable import tracker_unreachable
from kubetune.decide.waiting import NotReady
from kubetune.targets.table import facts_of
from kubetune.targets.values import RunState


def bring_forward(draft: Draft, candidate: CandidateDraft, attempt: AttemptDict) -> None:
    """Follow a candidate's newest attempt, and take its results over when it has ended well."""
    unsure = candidate.unsure(attempt, suspended=draft.spec.suspend)
    if unsure and _looked_up(draft, candidate, attempt):
        return
    wait = follow(candidate, attempt, draft.spec.backoff_limit, draft.observed.retry_seconds)
    if candidate.resting and wait:
        draft.waits.append(wait)
    draft.waits += [run.look_again_seconds for run in candidate.live if run.look_again_seconds]
    if any(run.overdue for run in candidate.live):
        draft.actions.append(StopRuns(draft.run_key(candidate)))
    for run in candidate.live:
        if run.lacks_plan:
            _make_again(draft, candidate, run)
    if not candidate.measured or candidate.settled:
        return
    answers = draft.observed.answers
    asked = f"{candidate.name}/{attempt['number']}"
    summary = summary_of(candidate, answers.found.get(asked))
    if summary:
        _take_over(draft, candidate, summary)
    elif asked in answers.found:
        candidate.say(
            CandidatePhase.FAILED,
            Reason.RESULT_MISSING,
            "the run ended well but left no results: look at its log, and at spec.tracking of the"
            " compute target",
        )
    elif not lookup_refused(draft, candidate):
        _say_sought(
            draft, candidate, CandidatePhase.RUNNING, "the run has ended well; it is looked up"
        )
        ask(draft, FindEvaluation(candidate.digest, asked, draft.run_key(candidate)))


def _make_again(draft: Draft, candidate: CandidateDraft, run: RunState) -> None:
    """Make what a waiting run was given once more, if it would be the same."""
    shared = shared_inputs(draft.observed)
    inputs: CandidateInputs | NotReady = (
        shared
        if isinstance(shared, NotReady)
        else candidate_inputs(draft.observed, candidate.observed, shared)
    )
    reason, said = run.reason, f"{run.message}; it is made again"
    observed = draft.observed
    moved = moved_from(observed.started, observed.target, observed.evaluation.owner.namespace)
    if isinstance(inputs, NotReady) or moved:
        why = inputs.message if isinstance(inputs, NotReady) else moved
        said = f"{run.message}; it can't be made again: {why}"
    elif inputs.plan.digest != candidate.digest:
        said = f"{run.message}; its inputs have changed since: make a new Evaluation"
    else:
        request = inputs.request(draft.observed, draft.run_key(candidate), run.attempt, draft.left)
        draft.actions.append(StartRun(request))
    candidate.say(CandidatePhase.QUEUED, reason, said)


def _take_over(draft: Draft, candidate: CandidateDraft, summary: EvaluationSummary) -> None:
    target, answers = draft.observed.place, draft.observed.answers
    run_key = draft.run_key(candidate)
    if run_key not in answers.signed and not answers.tracking_error and summary.complete:
        # One that can't be signed now is measured again where it would have been reused.
        draft.actions.append(SignMeasurement(run_key, candidate.digest, summary))
    settle(candidate, summary, draft.spec.metrics, target, reused=False)
    if facts_of(target).runs_outlive_owner:
        draft.actions.append(DeleteRuns(draft.run_key(candidate), settled=True))


def lookup_refused(draft: Draft, candidate: CandidateDraft) -> bool:
    """Whether the tracking server refuses what is asked of it, for good: the candidate fails."""
    error = draft.observed.answers.tracking_refused
    if error:
        message = f"its results can't be looked up: {error}"
        candidate.say(CandidatePhase.FAILED, Reason.TRACKING_REFUSED, message)
    return bool(error)


def _looked_up(draft: Draft, candidate: CandidateDraft, attempt: AttemptDict) -> bool:
    """Whether an attempt that left no outcome is being looked up, or was found to have finished.

    Its Job may have been cleaned up, or its pod's last word lost; what it measured was tracked.
    """
    answers = draft.observed.answers
    asked = f"{candidate.name}/{attempt['number']}"
    if asked in answers.found:
        summary = summary_of(candidate, answers.found[asked])
        if summary is None:
            return False
        count_as_succeeded(attempt, candidate.counts)
        _take_over(draft, candidate, summary)
        return True
    if lookup_refused(draft, candidate):
        return True
    message = f"attempt {attempt['number']} left no outcome: its results are looked up"
    _say_sought(draft, candidate, CandidatePhase.RETRYING, message)
    candidate.resting = candidate.sought = True
    ask(draft, FindEvaluation(candidate.digest, asked, draft.run_key(candidate)))
    return True


def _say_sought(
    draft: Draft, candidate: CandidateDraft, phase: CandidatePhase, message: str
) -> None:
    """Say that results are looked up, or why that has to wait."""
    observed, reason = draft.observed, Reason.SEEKING_EQUAL
    answers = observed.answers
    away = tracker_unreachable(
        observed.place, observed.target, answers.tracking_error, answers.tracking_reason
    )
    if away:
        reason, message = away[0], f"{away[1]}; {message}"
    candidate.say(phase, reason, message)


def ask(draft: Draft, question: FindEvaluation) -> None:
    draft.actions.append(question)
    draft.waits.append(TRACKER_SECONDS)

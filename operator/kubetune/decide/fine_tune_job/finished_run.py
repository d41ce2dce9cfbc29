"""A run that has finished although the target doesn't show it: found before it is repeated.

A Job may be cleaned up while the operator is down, a pod's last word may get lost, and a backup
may bring back a job without its status. What the run has tracked and uploaded stays.
"""

from __future__ import annotations

from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.api.run.plan import TAG_PHASE
from kubetune.decide.decision import FindRun, FineTuneJobDecision, condition_is
from kubetune.decide.fine_tune_job import result
from kubetune.decide.fine_tune_job.draft import Draft, fail
from kubetune.decide.fine_tune_job.observed import ObservedJob, merged_name, registry_name
from kubetune.decide.fine_tune_job.orders import stopped_in_time
from kubetune.decide.fine_tune_job.progress import count_as_succeeded
from kubetune.decide.fine_tune_job.run_result import result_of
from kubetune.decide.retries import TRACKER_SECONDS
from kubetune.decide.target.unreachable import tracker_unreachable
from kubetune.tracking.base import TrackedRun


def seek_finished(draft: Draft) -> FineTuneJobDecision | None:
    """Ask the tracker whether a run of the job has finished; None once it is known that none has.

    To be asked before every repetition, and before a lost run counts as failed for good.
    """
    observed, answers = draft.observed, draft.observed.answers
    if not _may_have_run(draft):
        return None
    if answers.run_sought:
        if answers.run is None or not _has_finished(observed, answers.run):
            return None
        if draft.newest:
            count_as_succeeded(draft.newest, draft.counts)
        return result.finish(draft)
    if answers.tracking_refused:
        message = f"whether a run had finished can't be found out: {answers.tracking_refused}"
        return fail(draft, Reason.TRACKING_REFUSED, message)
    draft.phase(Phase.QUEUED)
    asking = "the tracking server is asked whether a run had finished before another one starts"
    reason, message = Reason.SEEKING_RESULT, asking
    away = tracker_unreachable(
        observed.place, observed.target, answers.tracking_error, answers.tracking_reason
    )
    if away:
        reason, message = away[0], f"{away[1]}; {asking}"
    if not stopped_in_time(observed.job.status, draft.newest):
        # Else that the deadline ordered the stop must be known when the answer has come.
        draft.conditions.set(ConditionType.RUNNING, False, reason, message)
    draft.conditions.waiting(reason, message)
    draft.actions.append(FindRun(observed.run_key))
    return draft.decision(TRACKER_SECONDS)


def _may_have_run(draft: Draft) -> bool:
    """Whether anything was ever started for the run key, as far as anybody can tell."""
    if draft.counts["total"]:
        return True
    # Where the target has refused the first run, that is all that was sent.
    refused = condition_is(draft.observed.job.status, ConditionType.SUBMITTED, "False")
    return not draft.observed.fresh and not refused


def _has_finished(observed: ObservedJob, run: TrackedRun) -> bool:
    """Whether a run has all that its job wants of it."""
    if run.tags.get(TAG_PHASE) != "succeeded":
        return False
    result = result_of(None, run)
    if result is None:
        return registry_name(observed) is None
    return merged_name(observed) is None or bool(result.merged_source)

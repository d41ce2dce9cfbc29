"""The outcome of a failed attempt whose own file or message didn't arrive.

Where the runner leaves its outcome in a file, as in a project, a full disk or an access rule may
keep it from the operator. It leaves it in a tag of the tracked run too.
"""

from __future__ import annotations

from dataclasses import replace

from kubetune.api.conditions import AttemptResult, Reason
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import outcome_tag
from kubetune.decide.decision import Decision, FindRun, FineTuneJobDecision
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.targets.table import facts_of
from kubetune.targets.values import RunState


def seek_outcome(observed: ObservedJob) -> FineTuneJobDecision | None:
    """Ask for the tracked run of an attempt that just failed without an outcome."""
    answers = observed.answers
    if not facts_of(observed.place).outcome_may_be_lost or not observed.runs:
        return None
    run = observed.runs[-1]
    if not _is_mute(run) or answers.run_sought or answers.tracking_error:
        return None
    known = observed.job.status.get("attempts") or ()
    if any(
        item["number"] == run.attempt and item["result"] != AttemptResult.RUNNING for item in known
    ):
        # What the status says of it was decided before.
        return None
    return Decision(status=observed.job.status, actions=(FindRun(observed.run_key),))


def with_outcome_from_tracker(observed: ObservedJob) -> ObservedJob:
    """The job with the outcomes that the tags of its tracked run tell."""
    tracked = observed.answers.run
    if tracked is None or not any(_is_mute(run) for run in observed.runs):
        return observed
    return replace(observed, runs=[_told(run, tracked.tags) for run in observed.runs])


def _told(run: RunState, tags: dict[str, str]) -> RunState:
    outcome = Outcome.from_message(tags.get(outcome_tag(run.attempt))) if _is_mute(run) else None
    if outcome is None or outcome.status == "succeeded":
        return run
    phase = "preempted" if outcome.status == "interrupted" else run.phase
    return replace(run, outcome=outcome, phase=phase)


def _is_mute(run: RunState) -> bool:
    return run.phase == "failed" and run.outcome is None and run.reason == Reason.RUN_FAILED

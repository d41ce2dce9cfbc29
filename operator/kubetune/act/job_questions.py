"""Puts the questions of a FineTuneJob to its tracker. Each may be repeated after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.spec import Tracking
from kubetune.decide.decision import (
    FindAlias,
    FindEvaluation,
    FindIdentical,
    FindRun,
    MoveAlias,
    Question,
    Register,
)
from kubetune.decide.fine_tune_job.observed import ObservedJob, TrackerAnswers
from kubetune.observe.trackers import Trackers
from kubetune.tracking.base import Registration, Tracker, TrackingError


async def ask(
    trackers: Trackers,
    observed: ObservedJob,
    answers: TrackerAnswers,
    questions: Sequence[Question],
) -> TrackerAnswers:
    """What is known with the answers, up to the first question that wasn't answered."""
    for question in questions:
        # A version with the same lineage is sought before there is a run.
        before = isinstance(question, FindIdentical)
        target = observed.target.spec if before else observed.place
        if target is None:
            return replace(
                answers,
                tracking_error=observed.target.why_not,
                tracking_reason=Reason.TRACKING_UNREACHABLE,
            )
        try:
            namespace = observed.job.owner.namespace
            found = await trackers.of(target, namespace)
            experiment = target.tracking.experiment_in(namespace)
            await _claim(found.tracker, target.tracking, namespace, question)
            answers = await _ask(found.tracker, experiment, answers, question)
        except TrackingError as error:
            return replace(answers, tracking_error=str(error), tracking_reason=error.reason)
    return answers


async def _claim(tracker: Tracker, tracking: Tracking, namespace: str, question: Question) -> None:
    """Refuse what another namespace has the name of; before training, and before registering."""
    match question:
        case FindIdentical(name) if not tracking.shares(name):
            await tracker.claim(name, namespace, make=False)
        case Register(registration) if not tracking.shares(registration.name):
            await tracker.claim(registration.name, namespace, make=True)
        case _:
            pass


async def _ask(
    tracker: Tracker, experiment: str, answers: TrackerAnswers, question: Question
) -> TrackerAnswers:
    answers = replace(answers, tracking_error="")
    match question:
        case FindIdentical(name, lineage_digest):
            identical = await tracker.find_identical(name, lineage_digest)
            if identical and question.alias:
                # Found by its run, the version is there: only the alias moves.
                same = Registration(
                    name, question.alias, "", identical.run_id, identical.source, {}
                )
                identical = await tracker.register(same)
            if question.merged:
                return replace(answers, identical_merged=identical, identical_merged_sought=True)
            return replace(answers, identical=identical, identical_sought=True)
        case FindRun(run_key):
            run = await tracker.find_run(run_key, experiment)
            return replace(answers, run=run, run_sought=True)
        case Register(registration, merged):
            version = await tracker.register(registration)
            field = "merged" if merged else "registered"
            return replace(answers, **{field: version})
        case FindEvaluation() | FindAlias() | MoveAlias():
            raise TypeError(f"a question of Evaluations: {question}")

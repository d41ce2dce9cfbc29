"""Puts the questions of an Evaluation to its tracker. Each may be repeated after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubetune.decide.decision import (
    FindAlias,
    FindEvaluation,
    FindIdentical,
    FindRun,
    MoveAlias,
    Question,
    Register,
)
from kubetune.decide.evaluation.observed import EvaluationAnswers, ObservedEvaluation
from kubetune.observe.trackers import Trackers
from kubetune.tracking.base import Tracker, TrackingError


async def ask(
    trackers: Trackers,
    observed: ObservedEvaluation,
    answers: EvaluationAnswers,
    questions: Sequence[Question],
) -> EvaluationAnswers:
    """What is known with the answers, up to the first question that wasn't answered."""
    target = observed.place
    if not questions:
        return answers
    if target is None:
        return replace(answers, tracking_error=observed.target.why_not)
    namespace = observed.evaluation.owner.namespace
    try:
        tracker = (await trackers.of(target, namespace)).tracker
        experiment = target.tracking.experiment_in(namespace)
        # Before anything is measured, and before the alias moves.
        promote = observed.evaluation.spec.promote if observed.evaluation.spec else None
        if promote and not target.tracking.shares(promote.name):
            await tracker.claim(promote.name, namespace, make=False)
        for question in questions:
            answers = await _ask(tracker, experiment, answers, question)
    except TrackingError as error:
        return replace(answers, tracking_error=str(error), tracking_reason=error.reason)
    return replace(answers, tracking_error="")


async def _ask(
    tracker: Tracker, experiment: str, answers: EvaluationAnswers, question: Question
) -> EvaluationAnswers:
    match question:
        case FindEvaluation(digest, asked):
            run = await tracker.find_evaluation(digest, experiment)
            return replace(answers, found={**answers.found, asked: run})
        case FindAlias(name, alias):
            holder = await tracker.alias_holder(name, alias)
            return replace(answers, holder=holder, alias_sought=True)
        case MoveAlias(move):
            return replace(answers, move=await tracker.move_alias(move))
        case FindIdentical() | FindRun() | Register():
            raise TypeError(f"a question of FineTuneJobs: {question}")

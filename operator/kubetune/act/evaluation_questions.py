"""Puts the questions of an Evaluation to its tracker. Each may be repeated after a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubetune.decide.decision import FindAlias, FindEvaluation, MoveAlias
from kubetune.decide.evaluation.observed import EvaluationLearned, ObservedEvaluation
from kubetune.observe.trackers import Trackers
from kubetune.tracking.base import Tracker, TrackingError

EvaluationQuestion = FindEvaluation | FindAlias | MoveAlias


async def ask(
    trackers: Trackers,
    observed: ObservedEvaluation,
    learned: EvaluationLearned,
    questions: Sequence[EvaluationQuestion],
) -> EvaluationLearned:
    """What is known with the answers, up to the first question that wasn't answered."""
    target = observed.place
    if not questions:
        return learned
    if target is None:
        return replace(learned, tracking_error=observed.target.why_not)
    namespace = observed.evaluation.owner.namespace
    try:
        tracker = (await trackers.of(target, namespace)).tracker
        experiment = target.tracking.experiment_in(namespace)
        for question in questions:
            learned = await _ask(tracker, experiment, learned, question)
    except TrackingError as error:
        return replace(learned, tracking_error=str(error), tracking_reason=error.reason)
    return replace(learned, tracking_error="")


async def _ask(
    tracker: Tracker, experiment: str, learned: EvaluationLearned, question: EvaluationQuestion
) -> EvaluationLearned:
    match question:
        case FindEvaluation(digest, asked):
            run = await tracker.find_evaluation(digest, experiment)
            return replace(learned, found={**learned.found, asked: run})
        case FindAlias(name, alias):
            holder = await tracker.alias_holder(name, alias)
            return replace(learned, holder=holder, alias_sought=True)
        case MoveAlias(move):
            return replace(learned, move=await tracker.move_alias(move))

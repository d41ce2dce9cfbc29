"""The actions of an Evaluation that ask or tell the tracking server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kubetune.decide.decision import Action, FindAlias, FindEvaluation, MoveAlias
from kubetune.decide.evaluation_observed import EvaluationLearned, ObservedEvaluation
from kubetune.observe.trackers import Trackers
from kubetune.tracking.base import Tracker, TrackingError


async def learn(
    trackers: Trackers,
    observed: ObservedEvaluation,
    learned: EvaluationLearned,
    actions: Sequence[Action],
) -> EvaluationLearned:
    """Run these actions; what they found out. May be repeated after a crash at any point."""
    questions = [
        action for action in actions if isinstance(action, FindEvaluation | FindAlias | MoveAlias)
    ]
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
    tracker: Tracker,
    experiment: str,
    learned: EvaluationLearned,
    question: FindEvaluation | FindAlias | MoveAlias,
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

"""Puts the questions of an Evaluation to its tracker. Each may be repeated after a crash."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kubetune.api.run.evaluation_plan import TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY
from kubetune.api.run.plan import TAG_NAMESPACE
from kubetune.decide.decision import (
    FindAlias,
    FindEvaluation,
    FindIdentical,
    FindRun,
    MoveAlias,
    Question,
    Register,
    SignMeasurement,
)
from kubetune.decide.evaluation.observed import EvaluationAnswers, ObservedEvaluation
from kubetune.keys import Keyring
from kubetune.observe.trackers import Trackers
from kubetune.tracking.base import TrackedRun, Tracker, TrackingError
from kubetune.tracking.trust import Trust, own_words, signed_measurement

logger = logging.getLogger(__name__)


async def ask(
    trackers: Trackers,
    keys: Keyring,
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
        found = await trackers.of(target, namespace)
        tracker = found.tracker
        experiment = target.tracking.experiment_in(namespace)
        promote = observed.evaluation.spec.promote if observed.evaluation.spec else None
        if promote and not target.tracking.shares(promote.name):
            # Before anything is measured, and before the alias moves: others may have made a
            # model of the name meanwhile.
            claimed = found.key, promote.name
            moves = any(isinstance(question, MoveAlias) for question in questions)
            if moves or answers.claimed != claimed:
                await tracker.claim(promote.name, namespace, make=False)
                answers = replace(answers, claimed=claimed)
        asker = _Asker(tracker, experiment, keys, namespace, target.tracking.trusted_namespaces)
        for question in questions:
            answers = await asker.ask(answers, question)
    except TrackingError as error:
        return replace(answers, tracking_error=str(error), tracking_reason=error.reason)
    return replace(answers, tracking_error="")


@dataclass(frozen=True)
class _Asker:
    tracker: Tracker
    experiment: str
    keys: Keyring
    namespace: str
    trusted: Sequence[str]

    async def ask(self, answers: EvaluationAnswers, question: Question) -> EvaluationAnswers:
        match question:
            case FindEvaluation():
                return await self._find(answers, question)
            case SignMeasurement():
                try:
                    await self._sign(question)
                except TrackingError as error:
                    logger.warning(
                        "run %s can't be signed, so it isn't reused: %s",
                        question.summary.run_id,
                        error,
                    )
                return replace(answers, signed=answers.signed | {question.run_key})
            case FindAlias(name, alias):
                holder = await self.tracker.alias_holder(name, alias)
                return replace(answers, holder=holder, alias_sought=True)
            case MoveAlias(move):
                return replace(answers, move=await self.tracker.move_alias(move))
            case FindIdentical() | FindRun() | Register():
                raise TypeError(f"a question of FineTuneJobs: {question}")

    async def _find(
        self, answers: EvaluationAnswers, question: FindEvaluation
    ) -> EvaluationAnswers:
        trust = Trust(self.keys, self.namespace, self.trusted)

        def own(run: TrackedRun) -> bool:
            """Whether the run that was asked for says itself what it has measured."""
            told = own_words(self.keys, run)
            says = TAG_EVALUATION_SUMMARY in told.tags or trust.measurement(run)
            return run.run_key == question.run_key and says

        run = await self.tracker.find_evaluation(
            question.digest, self.experiment, own if question.run_key else trust.measurement
        )
        answers = replace(answers, found={**answers.found, question.asked: run})
        if run is None and trust.doubts:
            return replace(answers, doubts={**answers.doubts, question.asked: trust.doubts[0]})
        return answers

    async def _sign(self, question: SignMeasurement) -> None:
        """Sign what a run has told, on the tracked run that is its own.

        What it names as its run may be another's.
        """
        summary = question.summary
        run = await self.tracker.find_run(question.run_key, self.experiment)
        if run is None or run.run_id != summary.run_id:
            return
        tags = {
            TAG_NAMESPACE: self.namespace,
            TAG_EVALUATION_DIGEST: question.digest,
            TAG_EVALUATION_SUMMARY: json.dumps(summary.to_json(), separators=(",", ":")),
        }
        await self.tracker.tag_run(run, signed_measurement(self.keys, run.run_id, tags))

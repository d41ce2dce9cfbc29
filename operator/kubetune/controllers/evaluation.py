"""Evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from kubetune.act import evaluation_questions
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.controllers.base import Controller
from kubetune.decide.decision import EvaluationDecision, Question
from kubetune.decide.evaluation import states
from kubetune.decide.evaluation.observed import EvaluationAnswers, ObservedEvaluation
from kubetune.decide.resources import EvaluationResource
from kubetune.keys import Keyring
from kubetune.observe.evaluation import EvaluationObserver
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key
from kubetune.targets.values import FINISHED


class EvaluationController(Controller[ObservedEvaluation, EvaluationAnswers]):
    """One run for each candidate; the best one may get an alias."""

    kinds = frozenset({"Evaluation"})

    def __init__(self, observer: EvaluationObserver, trackers: Trackers, keys: Keyring) -> None:
        self._keys = keys
        self._observer = observer
        self._trackers = trackers

    def begin(self, key: Key, kept: EvaluationAnswers | None) -> EvaluationAnswers:
        """Whose a name is, which is asked anew before an alias moves; the rest may have changed."""
        return EvaluationAnswers(claimed=kept.claimed) if kept else EvaluationAnswers()

    async def observe(
        self, resource: EvaluationResource, kept: EvaluationAnswers
    ) -> ObservedEvaluation:
        """An Evaluation and everything around it."""
        return await self._observer.observe(resource, kept)

    def decide(self, observed: ObservedEvaluation, now: datetime) -> EvaluationDecision:
        """See kubetune.decide.evaluation.states."""
        return states.decide(observed, now)

    def place(self, observed: ObservedEvaluation) -> ComputeTargetSpec | None:
        """Where its runs are; before the first one, where they will be."""
        return observed.place

    async def ask(
        self,
        observed: ObservedEvaluation,
        kept: EvaluationAnswers,
        questions: Sequence[Question],
    ) -> EvaluationAnswers:
        """Look for measurements or an alias, or move one."""
        return await evaluation_questions.ask(self._trackers, self._keys, observed, kept, questions)

    def followed_runs(self, observed: ObservedEvaluation) -> set[str]:
        """The runs of its candidates that live."""
        if observed.place is None or observed.evaluation.deleting:
            return set()
        return {
            item.run_key
            for item in observed.candidates
            if any(run.phase not in FINISHED for run in item.runs)
        }

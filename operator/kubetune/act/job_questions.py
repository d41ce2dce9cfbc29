"""Puts the questions of a FineTuneJob to its tracker. Each may be repeated after a crash."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kubetune.act.attesting import Attesting
from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.spec import Tracking
from kubetune.api.run.plan import TAG_ATTESTATION
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
from kubetune.decide.fine_tune_job.observed import (
    ObservedJob,
    TrackerAnswers,
    merged_name,
    registry_name,
)
from kubetune.decide.fine_tune_job.provenance import about_version
from kubetune.keys import Keyring
from kubetune.observe.trackers import Trackers
from kubetune.tracking.base import RegisteredVersion, Registration, Tracker, TrackingError
from kubetune.tracking.trust import Trust, own_words, signed_version

logger = logging.getLogger(__name__)


async def ask(
    trackers: Trackers,
    keys: Keyring,
    attesting: Attesting,
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
            await _claim(found.tracker, target.tracking, observed, question)
            trust = Trust(keys, namespace, target.tracking.trusted_namespaces)
            asker = _Asker(found.tracker, experiment, keys, trust, attesting)
            answers = await asker.ask(answers, question)
        except TrackingError as error:
            return replace(answers, tracking_error=str(error), tracking_reason=error.reason)
    return answers


async def _claim(
    tracker: Tracker, tracking: Tracking, observed: ObservedJob, question: Question
) -> None:
    """Refuse what another namespace has the name of; before training, and before registering."""
    match question:
        case FindIdentical():
            # All that will be registered: the training would be for nothing.
            names, make = (registry_name(observed), merged_name(observed)), False
        case Register(registration):
            names, make = (registration.name,), True
        case _:
            return
    for name in names:
        if name and not tracking.shares(name):
            await tracker.claim(name, observed.job.owner.namespace, make=make)


@dataclass(frozen=True)
class _Asker:
    tracker: Tracker
    experiment: str
    keys: Keyring
    trust: Trust
    attesting: Attesting

    async def ask(self, answers: TrackerAnswers, question: Question) -> TrackerAnswers:
        answers = replace(answers, tracking_error="")
        match question:
            case FindIdentical():
                return await self._find_identical(answers, question)
            case FindRun(run_key):
                run = await self.tracker.find_run(run_key, self.experiment)
                own = own_words(self.keys, run) if run else None
                return replace(answers, run=own, run_sought=True)
            case Register(registration, merged):
                version = await self.tracker.register(registration)
                tags = signed_version(self.keys, version, registration.tags)
                await self.tracker.tag_version(version, registration.experiment_id, tags)
                await self._attest(version, registration)
                field = "merged" if merged else "registered"
                return replace(answers, **{field: version})
            case FindEvaluation() | SignMeasurement() | FindAlias() | MoveAlias():
                raise TypeError(f"a question of Evaluations: {question}")

    async def _attest(self, version: RegisteredVersion, registration: Registration) -> None:
        """Say beside a version what it was made of; nothing of ours depends on it."""
        if registration.statement is None:
            return
        envelope = await self.attesting.signed(about_version(registration.statement, version))
        tags = {TAG_ATTESTATION: envelope}
        try:
            await self.tracker.tag_version(version, registration.experiment_id, tags)
        except TrackingError as error:
            if not error.refused:
                raise
            # An older server keeps no text of that length.
            named = f"{version.name} version {version.version}"
            logger.warning("%s has no statement: %s", named, error)

    async def _find_identical(
        self, answers: TrackerAnswers, question: FindIdentical
    ) -> TrackerAnswers:
        name = question.name
        identical = await self.tracker.find_identical(
            name, question.lineage_digest, self.trust.version
        )
        if identical and question.alias:
            # Found by its run, the version is there: only the alias moves.
            same = Registration(name, question.alias, "", identical.run_id, identical.source, {})
            moved = await self.tracker.register(same)
            identical = replace(identical, aliases=moved.aliases)
        doubt = next(iter(self.trust.doubts), None)
        if question.merged:
            return replace(
                answers, identical_merged=identical, identical_merged_sought=True, doubt=doubt
            )
        return replace(answers, identical=identical, identical_sought=True, doubt=doubt)

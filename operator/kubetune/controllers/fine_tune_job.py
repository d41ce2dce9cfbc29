"""FineTuneJob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from kubetune.act import job_questions
from kubetune.act.attesting import Attesting
from kubetune.api import JsonObject
from kubetune.api.conditions import TERMINAL_PHASES, Phase
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import FineTuneJobStatusDict, status_of
from kubetune.controllers.base import Controller
from kubetune.decide.decision import FineTuneJobDecision, Question
from kubetune.decide.fine_tune_job import states
from kubetune.decide.fine_tune_job.observed import ObservedJob, TrackerAnswers
from kubetune.decide.resources import FineTuneJobResource
from kubetune.keys import Keyring
from kubetune.names import FINALIZER, new_nonce
from kubetune.observe.fine_tune_job import FineTuneJobObserver
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key
from kubetune.targets.dispatch import Backends
from kubetune.targets.table import recorded_facts
from kubetune.targets.values import FINISHED
from kubetune.tracking.poller import ProgressPoller
from kubetune.tracking.trust import own_words


@dataclass(frozen=True)
class JobMemory:
    """What is known of a job besides its status."""

    nonce: str
    """Of its run key, when the job has none yet."""
    answers: TrackerAnswers = field(default_factory=TrackerAnswers)


class FineTuneJobController(Controller[ObservedJob, JobMemory]):
    """One run after the other until one succeeds; its result is registered."""

    kinds = frozenset({"FineTuneJob"})

    def __init__(
        self,
        observer: FineTuneJobObserver,
        trackers: Trackers,
        poller: ProgressPoller[Key],
        backend: Backends,
        keys: Keyring,
        attesting: Attesting,
    ) -> None:
        self._keys, self._attesting = keys, attesting
        self._observer = observer
        self._trackers = trackers
        self._poller = poller
        self._backend = backend

    def begin(self, key: Key, kept: JobMemory | None) -> JobMemory:
        """What the tracker has answered stays known; whether it answers is found out again."""
        answers = kept.answers if kept else TrackerAnswers()
        return JobMemory(new_nonce(), replace(answers, tracking_error="", run_sought=False))

    async def observe(self, resource: FineTuneJobResource, kept: JobMemory) -> ObservedJob:
        """A job and everything around it."""
        answers = kept.answers
        run_keys = self._observer.run_keys
        given = run_keys.of(resource)
        run_key = given or run_keys.fresh(resource, kept.nonce)
        if error := self._poller.error(run_key):
            away = self._poller.reason(run_key)
            answers = replace(answers, tracking_error=error, tracking_reason=away)
        tracked = self._poller.tracked(run_key)
        tracked = own_words(self._keys, tracked) if tracked else None
        return await self._observer.observe(resource, given, kept.nonce, answers, tracked)

    def decide(self, observed: ObservedJob, now: datetime) -> FineTuneJobDecision:
        """See kubetune.decide.fine_tune_job.states."""
        return states.decide(observed, now)

    def place(self, observed: ObservedJob) -> ComputeTargetSpec | None:
        """Where its runs are; before the first one, where it will be."""
        return observed.place

    def is_settled(self, body: JsonObject) -> bool:
        """Whether it is finished and nothing more has to happen to it."""
        metadata = body["metadata"]
        status: FineTuneJobStatusDict = status_of(body)
        released = FINALIZER not in (metadata.get("finalizers") or ())
        # Runs that outlive it wait to be deleted with it, which needs the finalizer.
        outlived = recorded_facts(status.get("external") or {}).runs_outlive_owner
        unguarded = released and outlived
        return (
            status.get("phase") in TERMINAL_PHASES
            and not unguarded
            and "deletionTimestamp" not in metadata
            and status.get("observedGeneration") == metadata["generation"]
            and "ttlSecondsAfterFinished" not in body["spec"]
            and status.get("phase") != Phase.FAILED
        ) or ("deletionTimestamp" in metadata and released)

    async def ask(
        self, observed: ObservedJob, kept: JobMemory, questions: Sequence[Question]
    ) -> JobMemory:
        """Look for a run or a version, or register one."""
        answers = await job_questions.ask(
            self._trackers, self._keys, self._attesting, observed, kept.answers, questions
        )
        return replace(kept, answers=answers)

    def followed_runs(self, observed: ObservedJob) -> set[str] | None:
        """Its run while it lives; what was last seen of it stays until it is registered."""
        if not any(run.phase not in FINISHED for run in observed.runs):
            registering = observed.job.status.get("phase") == Phase.REGISTERING
            return None if registering else set()
        if observed.place is None or observed.job.deleting:
            return None
        return {observed.run_key}

    def forget(self, key: Key, body: JsonObject | None) -> None:
        """Its run key, and what the backend knows of its runs."""
        status: FineTuneJobStatusDict = status_of(body or {})
        if run_key := status.get("runKey"):
            self._backend.forget(run_key)
        self._observer.run_keys.forget(key.namespace, key.name)

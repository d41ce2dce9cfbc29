"""Makes the job and the run of an attempt, once, on an API without idempotency keys.

A create whose answer was lost is looked up until it is known. What doesn't show in any listing
for ``settle_seconds`` after it was last sent counts as not made.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from functools import partial

from kubetune.api.conditions import Reason
from kubetune.clients.cml import (
    CmlError,
    ConflictError,
    InvalidError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_models import Job, JobRun
from kubetune.clients.cml_operations import (
    CREATE_JOB_RUN,
    UPDATE_JOB,
)
from kubetune.clients.permission import taking_back
from kubetune.targets.cml.jobs import find_job, named, remove_job, settle_runs, stop_run
from kubetune.targets.cml.manifests import (
    build_job,
    build_run,
    changes,
    input_files,
)
from kubetune.targets.cml.states import is_live, numbered, status_word
from kubetune.targets.cml.workspace import Workspace
from kubetune.targets.errors import BackendError
from kubetune.targets.values import Owner, RunRequest

TakeBack = Callable[[], Awaitable[object]]
ReadConfigMap = Callable[[str, str, str], Awaitable[str]]
"""Namespace, name and key of a ConfigMap -> its value."""
logger = logging.getLogger(__name__)

RECENT_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 5.0
"""Between two listings in search of what a write without an answer has made."""


@dataclass(frozen=True)
class Sent:
    """A create without an answer."""

    at: float
    """Monotonic seconds."""
    problem: str = ""
    """What came instead of an answer; empty when an earlier operator may have sent it."""
    take_back: TakeBack | None = None
    """Removes what it has made beside what another operator has; of one that was sent here."""


class Submission:
    """Makes jobs and runs; remembers what was sent without an answer."""

    def __init__(self, read_config_map: ReadConfigMap, settle_seconds: float) -> None:
        self._read_config_map = read_config_map
        self._settle_seconds = settle_seconds
        self._begun = time.monotonic()
        self._new: set[str] = set()
        """Run keys that were made in this process: what was sent for them is known."""
        self._job_ids: dict[str, str] = {}
        """Jobs by run key that were seen or made; a listing may be behind."""
        self._sent: dict[str, Sent] = {}
        """The last create without an answer: by run key, or run key and attempt."""

    def mark_new(self, run_key: str) -> None:
        """See kubetune.targets.contract.Backend."""
        self._new.add(run_key)

    def remember(self, run_key: str, job_id: str) -> None:
        """A job of this id was seen, by whomever; one that is known already stays."""
        self._job_ids.setdefault(run_key, job_id)

    def forget(self, run_key: str) -> None:
        """See kubetune.targets.contract.Backend."""
        self._new.discard(run_key)
        self.job_is_gone(run_key)

    def job_is_gone(self, run_key: str) -> bool:
        """CML says that there is no such job, and so no run of it; whether that is news."""
        for key in self._unanswered(run_key):
            del self._sent[key]
        return self._job_ids.pop(run_key, None) is not None

    def expects(self, run_key: str, *, doubted: bool) -> bool:
        """Whether a job or run may show that no listing has shown.

        ``doubted`` tells that an operator that ended may have sent something for the key.
        """
        sent = [self._sent[key].at for key in self._unanswered(run_key)]
        if doubted and run_key not in self._new:
            sent.append(self._begun)
        return time.monotonic() < max(sent, default=float("-inf")) + self._settle_seconds

    async def find(
        self, workspace: Workspace, owner: Owner, run_key: str, since: float
    ) -> Job | None:
        """The job of a run key; see ``find_job``."""
        job = await find_job(workspace, owner, run_key, since, self._job_ids.get(run_key))
        if job is None:
            self._job_ids.pop(run_key, None)
        return job

    async def find_all(
        self, workspace: Workspace, owner: Owner, run_key: str, since: float
    ) -> list[Job]:
        """The job of a run key with all its duplicates."""
        ours, _ = await named(workspace, owner, run_key, since, self._job_ids.get(run_key))
        return ours

    def found(self, run_key: str, job: Job, runs: list[JobRun]) -> None:
        """There is a job, with these runs: what was sent for them is answered."""
        self._job_ids[run_key] = job.id
        self._sent.pop(run_key, None)
        for attempt in numbered(runs):
            self._sent.pop(f"{run_key}/{attempt}", None)

    def wait_for_answers(self, run_key: str, listed: float, *, found: bool) -> None:
        """Raise BackendError while something may have been made that no listing shows yet.

        ``found`` tells whether a listing begun at ``listed`` (monotonic) shows a job.
        """
        if not found:
            self._doubt(run_key, run_key)
        for key in self._unanswered(run_key):
            self._wait_for_answer(key, listed)

    async def job(self, workspace: Workspace, request: RunRequest) -> Job:
        """The job of the request's run key: found, or made. Raises BackendError, CmlError."""
        run_key = request.run_key
        now = time.monotonic()
        # Nothing can have been sent for a key that was made just now.
        known = run_key in self._sent or run_key in self._job_ids
        fresh = run_key in self._new and not known
        since = now - RECENT_SECONDS * fresh
        job = await self.find(workspace, request.owner, run_key, since)
        if job is None:
            if request.purpose == "train":
                self._doubt(run_key, run_key)
            self._wait_for_answer(run_key, now)
            job = await self._create_job(workspace, request)
        self._sent.pop(run_key, None)
        self._job_ids[run_key] = job.id
        return job

    async def run(
        self, workspace: Workspace, request: RunRequest, job: Job
    ) -> tuple[Job, list[JobRun]]:
        """The job as it is by now, and all its runs once the attempt's is among them.

        Raises BackendError, CmlError.
        """
        job_id = job.id
        key = f"{request.run_key}/{request.attempt}"
        now = time.monotonic()
        runs = await workspace.runs(job_id)
        if request.attempt not in numbered(runs):
            if other := next((run for run in runs if is_live(run)), None):
                await stop_run(workspace, job_id, other.id)
                message = f"run {other.id} of an earlier attempt has to stop first"
                raise BackendError(Reason.STOPPING, message, retryable=True)
            if request.purpose == "train":
                self._doubt(request.run_key, key)
            self._wait_for_answer(key, now)
            job = await self._update_job(workspace, request, job)
            runs = await self._create_run(workspace, request, job_id, key)
        self._sent.pop(key, None)
        return job, runs

    async def take_back(self) -> None:
        """Remove what was made beside another operator's, where nobody has waited for an answer.

        To be called when this operator ends, and no call of it is under way any more: the other
        operator doesn't look again once its run has ended.
        """
        for sent in list(self._sent.values()):
            if sent.take_back:
                with contextlib.suppress(CmlError, BackendError), taking_back():
                    await sent.take_back()

    async def _only_job(self, workspace: Workspace, request: RunRequest) -> None:
        """Remove jobs without runs that are there beside one that has some.

        Where none has, the other operator may be about to start one in any of them.
        """
        jobs = await self.find_all(workspace, request.owner, request.run_key, time.monotonic())
        runs = {job.id: await workspace.runs(job.id) for job in jobs}
        if any(runs.values()):
            for job_id in (job_id for job_id, found in runs.items() if not found):
                logger.warning("removing job %s, a duplicate", job_id)
                await remove_job(workspace, job_id, [])

    async def _create_job(self, workspace: Workspace, request: RunRequest) -> Job:
        offer = await workspace.offer(request.resources)
        script, archive = await workspace.place_runner()
        body = build_job(request, offer, script, archive)
        if request.target.tracking.type == "cml":
            # Here, once: runs that make the same experiment at the same time collide.
            await workspace.ensure_experiment(request.plan["tracking"]["experiment"])
        for path, content in input_files(request, await self._config_map(request)).items():
            await workspace.upload(path, content)
        try:
            again = partial(self._only_job, workspace, request)
            with self._sending(request.run_key, again):
                made = await workspace.create_job(body)
        except InvalidError as error:
            if not workspace.doubt_runner():
                raise
            # Somebody may have tidied up the project.
            raise BackendError(
                Reason.TARGET_REFUSED, str(error), retryable=True, retry_after=1.0
            ) from error
        logger.info("made job %s (%s)", body.name, made.id)
        self._job_ids[request.run_key] = made.id
        # Another operator may have made one at the same moment; all see the same list by now.
        since = time.monotonic()
        return await self.find(workspace, request.owner, request.run_key, since) or made

    async def _update_job(self, workspace: Workspace, request: RunRequest, job: Job) -> Job:
        """Give the job what the next run is to have. May be repeated."""
        changed = changes(job, request, await workspace.offer(request.resources))
        if changed is None:
            return job
        await workspace.write(UPDATE_JOB, job.id, body=changed)
        return job.model_copy(update=changed.model_dump(exclude_none=True))

    async def _create_run(
        self, workspace: Workspace, request: RunRequest, job_id: str, key: str
    ) -> list[JobRun]:
        made = JobRun()
        body = build_run(request)
        if request.attempt > 1:
            # The last one may have found other files than those that were placed.
            await workspace.place_runner(anew=True)
        again = partial(settle_runs, workspace, job_id, request.attempt)
        # A conflict: another run of the job is active, somebody was faster.
        with contextlib.suppress(ConflictError), self._sending(key, again):
            made = await workspace.write(CREATE_JOB_RUN, job_id, body=body)
        runs = await workspace.runs(job_id)
        if made.id and status_word(made) != "SKIPPED" and all(run.id != made.id for run in runs):
            # A list may be behind.
            runs.append(made.model_copy(update={"environment": json.dumps(body.environment)}))
        found = numbered(runs).get(request.attempt)
        if found and made.id not in ("", found.id):
            # Another operator's had begun, and ended, before ours arrived.
            with taking_back():
                await again()
        if request.attempt not in numbered(runs):
            message = f"CML refused a run of job {job_id}, since another one is active"
            raise BackendError(Reason.STOPPING, message, retryable=True)
        return runs

    @contextlib.contextmanager
    def _sending(self, key: str, take_back: TakeBack) -> Generator[None]:
        """Remember a create that is under way, unless the answer says that nothing was made."""
        sent = self._sent[key] = Sent(time.monotonic(), take_back=take_back)
        try:
            yield
        except UnknownOutcomeError as error:
            self._sent[key] = replace(sent, problem=str(error))
            raise
        except Exception:
            del self._sent[key]
            raise

    def _doubt(self, run_key: str, key: str) -> None:
        """Take something for sent, unless the run key was made in this process.

        An operator that ended may have sent it just before this one began.
        """
        if run_key not in self._new:
            self._sent.setdefault(key, Sent(self._begun))

    def _unanswered(self, run_key: str) -> list[str]:
        return [key for key in self._sent if key.split("/")[0] == run_key]

    def _wait_for_answer(self, key: str, listed: float) -> None:
        """Raise BackendError unless a listing begun at ``listed`` would show what was sent."""
        sent = self._sent.get(key)
        if sent is None:
            return
        left = sent.at + self._settle_seconds - listed
        if left <= 0:
            return
        raise not_known(min(left, LOOK_AGAIN_SECONDS), sent.problem)

    async def _config_map(self, request: RunRequest) -> str | None:
        if request.dataset_config_map is None:
            return None
        return await self._read_config_map(request.owner.namespace, *request.dataset_config_map)


def not_known(retry_after: float = LOOK_AGAIN_SECONDS, problem: str = "") -> BackendError:
    """The error while something may have been made that no listing shows yet.

    ``problem`` is what came instead of an answer, when that was seen.
    """
    said = problem or "it is not known whether CML has made the job or run"
    return BackendError(
        Reason.SUBMISSION_UNKNOWN,
        f"{said}: the lists are read until it is known",
        retryable=True,
        retry_after=retry_after,
    )

"""Looks at active runs, each at its own pace, and tells whom it concerns.

One task for each workspace, and none while nothing is active. A run that starts or stops is
looked at often, one in which nothing happens less and less often. While the workspace doesn't
answer, one probe replaces all other requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kubetune.api.conditions import Reason
from kubetune.api.kinds.status_types import ExternalDict
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import outcome_path
from kubetune.clients.cml import CmlError, CredentialsError, NotFoundError
from kubetune.clients.cml_models import Job, JobRun, UsageResponse
from kubetune.queue.outside import background
from kubetune.targets.cml.jobs import find_job, stop_run
from kubetune.targets.cml.states import (
    Ending,
    Limits,
    has_ended,
    is_active,
    is_live,
    numbered,
    run_state,
    status_word,
    usage_row,
)
from kubetune.targets.cml.workspace import Workspace, refused
from kubetune.targets.errors import BackendError
from kubetune.targets.values import FINISHED, Owner, RunState

logger = logging.getLogger(__name__)

SLOWER = 1.5
QUIET_STATUS = "RUNNING"


@dataclass
class Followed:
    """The job of one run key and what was seen of it."""

    owner: Owner
    run_key: str
    job: Job
    states: list[RunState] = field(default_factory=list[RunState])
    endings: dict[str, Ending] = field(default_factory=dict[str, Ending])
    """What ended runs left, by run id: read once."""
    unexplained: set[str] = field(default_factory=set[str])
    """Ids of runs that failed without an outcome, and were looked for once in the usage list."""
    given_up: set[str] = field(default_factory=set[str])
    """Ids of runs that were overdue."""
    unknown_since: datetime | None = None
    active: bool = False
    due: float = 0.0
    pause: float = 0.0


class Follower:
    """Follows the active runs of one workspace.

    Duplicates of their jobs are sought every ``settle_seconds``: so late may one show.
    """

    def __init__(
        self,
        workspace: Workspace,
        notify: Callable[[Owner], None],
        unknown_seconds: float,
        settle_seconds: float,
    ) -> None:
        self._workspace = workspace
        self._notify = notify
        bounds = workspace.target.poll
        self._fastest = float(bounds.min_seconds if bounds else 10)
        self._slowest = float(bounds.max_seconds if bounds else 60)
        self._limits = Limits(
            timedelta(seconds=workspace.target.scheduling_timeout_seconds),
            timedelta(seconds=unknown_seconds),
        )
        self._sweep_seconds = max(settle_seconds, self._slowest)
        self._followed: dict[str, Followed] = {}
        self._waiting: dict[str, Owner] = {}
        """Who was told of a problem and follows nothing yet, by run key."""
        self._problem: BackendError | None = None
        self._failures = 0
        self._probe_at = self._rest_until = 0.0
        self._swept_at = time.monotonic()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def get(self, run_key: str) -> Followed | None:
        """What is known of a run key."""
        return self._followed.get(run_key)

    def check(self, owner: Owner, run_key: str) -> None:
        """Raise the workspace's problem, if it has one; the owner hears when it is over."""
        if self._problem is not None:
            self._waiting[run_key] = owner
            self._start()
            raise self._problem

    async def follow(self, owner: Owner, run_key: str, job: Job, runs: list[JobRun]) -> Followed:
        """Follow a job whose runs were just listed. Raises CmlError."""
        followed = self._of_job(run_key, job) or Followed(owner, run_key, job)
        followed.job = job
        await self._take(followed, runs)
        self._followed[run_key] = followed
        self._start()
        return followed

    async def runs(self, run_key: str, job: Job) -> list[JobRun]:
        """All runs of a job, also those that were seen and that a listing lacks."""
        followed = self._of_job(run_key, job)
        states = followed.states if followed else ()
        going_on = [state.name for state in states if state.phase not in FINISHED]
        return await self._workspace.runs(job.id, also=going_on)

    def hurry(self, run_key: str) -> None:
        """Something was done to the run: look soon."""
        if followed := self._followed.get(run_key):
            followed.pause = self._fastest
            followed.due = min(followed.due, time.monotonic() + min(self._fastest, 1.0))
            self._wake.set()

    def forget(self, run_key: str) -> None:
        """Follow a run key no longer."""
        self._followed.pop(run_key, None)
        self._waiting.pop(run_key, None)

    def failed(
        self, error: CmlError | BackendError, owner: Owner | None = None, run_key: str = ""
    ) -> BackendError:
        """Take note of an error; the one for the caller, who hears when a lasting one is over."""
        problem = (
            error if isinstance(error, BackendError) else refused(error, self._workspace.target.url)
        )
        if problem.reason not in _WORKSPACE_PROBLEMS:
            return problem
        if owner is not None:
            self._waiting[run_key] = owner
        news = str(self._problem) != str(problem)
        self._problem = problem
        pause = min(self._fastest * 2 ** min(self._failures, 8), self._slowest)
        self._probe_at = time.monotonic() + max(pause, problem.retry_after or 0.0)
        self._failures += 1
        if news:
            logger.warning("%s", problem)
            self._tell_all()
        self._start()
        return problem

    async def close(self) -> None:
        """Stop following."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _of_job(self, run_key: str, job: Job) -> Followed | None:
        followed = self._followed.get(run_key)
        return followed if followed and followed.job.id == job.id else None

    def _start(self) -> None:
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = background(self._work())

    def _tell_all(self) -> None:
        for followed in list(self._followed.values()):
            if followed.active:
                self._notify(followed.owner)
        for owner in list(self._waiting.values()):
            self._notify(owner)

    async def _work(self) -> None:
        while self._waiting or any(f.active for f in self._followed.values()):
            self._wake.clear()
            pause = self._next() - time.monotonic()
            if pause > 0:
                # asyncio.wait_for would lose a cancellation that comes together with the wake-up.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                continue
            try:
                await self._look()
            except Exception:
                # Following must continue, whatever one answer looks like.
                logger.exception("looking at the runs of %s failed", self._workspace.target.url)
                self._rest()

    def _next(self) -> float:
        """When to look next, on the monotonic clock."""
        if self._problem is not None:
            return self._probe_at
        return max(
            self._rest_until,
            min((f.due for f in self._followed.values() if f.active), default=0.0),
        )

    def _rest(self) -> None:
        self._rest_until = time.monotonic() + self._fastest

    async def _look(self) -> None:
        if self._problem is not None:
            await self._probe()
            return
        now = time.monotonic()
        if now - self._swept_at > self._sweep_seconds:
            self._swept_at = now
            await self._sweep()
        due = [f for f in self._followed.values() if f.active and f.due <= now]
        await asyncio.gather(*(self._refresh(followed) for followed in due))

    async def _probe(self) -> None:
        try:
            await self._workspace.check()
        except (CmlError, BackendError) as error:
            self.failed(error)
            return
        self._problem, self._failures = None, 0
        for followed in self._followed.values():
            followed.due = 0.0
        self._tell_all()
        self._waiting.clear()

    async def _refresh(self, followed: Followed) -> None:
        try:
            changed = await self._take(followed, await self.runs(followed.run_key, followed.job))
        except NotFoundError:
            changed = await self._gone(followed)
        except (CmlError, BackendError) as error:
            followed.due = time.monotonic() + self._fastest
            self.failed(error)
            return
        if changed:
            self._notify(followed.owner)

    async def _gone(self, followed: Followed) -> bool:
        """The job is not there: deleted by hand, unless the project itself is gone."""
        try:
            await self._workspace.check()
        except (CmlError, BackendError) as error:
            self.failed(error)
            return False
        if self._followed.get(followed.run_key) is followed:
            del self._followed[followed.run_key]
        self._workspace.relist()
        return True

    async def _sweep(self) -> None:
        """Look for duplicates of active jobs, and remove them."""
        now = time.monotonic()
        for followed in [f for f in self._followed.values() if f.active]:
            try:
                known = followed.job.id
                job = await find_job(self._workspace, followed.owner, followed.run_key, now, known)
            except (CmlError, BackendError) as error:
                logger.info("jobs of %s not swept: %s", self._workspace.target.url, error)
                if isinstance(error, BackendError) and error.reason == Reason.NAME_TAKEN:
                    # That concerns one job alone.
                    continue
                return
            if job is not None and job.id != followed.job.id:
                followed.job, followed.due = job, 0.0

    async def _take(self, followed: Followed, runs: list[JobRun]) -> bool:
        """Take in what a listing shows; whether it is news. Raises CmlError."""
        now = datetime.now(UTC)
        attempts = numbered(runs)
        newest = next(reversed(attempts.values()), None)
        for attempt, run in attempts.items():
            if has_ended(run) and run.id not in followed.endings:
                ending = await self._ending(followed, attempt, run, runs, patient=run is newest)
                if ending is not None:
                    followed.endings[run.id] = ending
        active = newest is not None and is_active(newest)
        doubtful = newest is not None and active and not is_live(newest)
        waits = newest is not None and has_ended(newest) and newest.id not in followed.endings
        if not doubtful:
            followed.unknown_since = None
        elif followed.unknown_since is None:
            followed.unknown_since = now
        external = self._external(followed.job)
        states = [
            run_state(
                attempt,
                run,
                external,
                now,
                self._limits,
                ending=followed.endings.get(run.id),
                unknown_since=followed.unknown_since if run is newest else None,
                given_up=run.id in followed.given_up,
                unexplained=waits and run is newest,
                ordered=run.id in self._workspace.stopped,
            )
            for attempt, run in attempts.items()
        ]
        followed.given_up |= {state.name for state in states if state.overdue}
        news = states != followed.states
        if news and states and states[-1].reason == Reason.RUN_LOST:
            # What nobody sees may still run, and cost.
            await stop_run(self._workspace, followed.job.id, states[-1].name)
        followed.states = states
        followed.active = (active or waits) and states[-1].phase not in FINISHED
        quiet = newest is not None and status_word(newest) == QUIET_STATUS
        slower = min(max(followed.pause, self._fastest) * SLOWER, self._slowest)
        followed.pause = slower if quiet and not news else self._fastest
        followed.due = time.monotonic() + followed.pause
        return news

    async def _ending(
        self,
        followed: Followed,
        attempt: int,
        run: JobRun,
        runs: list[JobRun],
        *,
        patient: bool,
    ) -> Ending | None:
        """What a run left; None when why it failed may be told at the next look."""
        word = status_word(run)
        if word == "TIMEDOUT" and run.finished_at is None:
            # Without an end it may still run, and cost.
            await stop_run(self._workspace, followed.job.id, run.id)
        content = await self._workspace.download(outcome_path(followed.run_key, attempt))
        outcome = Outcome.from_message(content.decode(errors="replace")) if content else None
        if outcome is not None or word not in ("FAILED", "TIMEDOUT"):
            return Ending(outcome)
        usage, told = await self._usage(followed.job, run, runs)
        looked = run.id in followed.unexplained
        if patient and told and usage is None and word == "FAILED" and not looked:
            # The list of workloads is filled by another part of CML than ends them.
            followed.unexplained.add(run.id)
            return None
        return Ending(usage=usage)

    async def _usage(
        self, job: Job, run: JobRun, runs: list[JobRun]
    ) -> tuple[UsageResponse | None, bool]:
        """The usage row of a run, and whether the workspace tells any."""
        try:
            rows = await self._workspace.usage(run.created_at)
        except CredentialsError:
            raise
        except CmlError as error:
            logger.info("no usage rows of %s: %s", self._workspace.target.url, error)
            return None, False
        return usage_row(job, run, runs, rows), True

    def _external(self, job: Job) -> ExternalDict:
        target = self._workspace.target
        known: ExternalDict = {"workspace": target.url, "jobId": job.id}
        if self._workspace.project_id:
            known["projectId"] = self._workspace.project_id
        if slug := job.project.slug:
            known["url"] = f"{target.url.rstrip('/')}/{slug}/jobs/{job.id}"
        return known


_WORKSPACE_PROBLEMS = frozenset(
    {
        Reason.CREDENTIALS_INVALID,
        Reason.TARGET_UNREACHABLE,
        Reason.TARGET_THROTTLED,
        Reason.PACKAGE_MISSING,
        Reason.PROJECT_MISSING,
    }
)

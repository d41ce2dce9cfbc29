"""One project of a CML workspace, reached with the API key of one namespace."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.api.training.settings import Resources
from kubetune.clients import cml_operations as api
from kubetune.clients.cml import (
    CmlClient,
    CmlError,
    ConflictError,
    CredentialsError,
    InvalidError,
    NotFoundError,
    PackageMissingError,
    ThrottledError,
    UnavailableError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.cml_errors import AnswerRefusedError, EgressRefusedError
from kubetune.clients.cml_experiments import ensure_experiment
from kubetune.clients.cml_models import (
    AcceleratorNodeLabel,
    Answer,
    Body,
    CreateJobRequest,
    Job,
    JobRun,
    Project,
    Runtime,
    RuntimeAddon,
    UsageResponse,
    UserQuota,
)
from kubetune.clients.cml_operations import Operation
from kubetune.clients.cml_projects import ID, find_project
from kubetune.clients.kubernetes import ApiError
from kubetune.queue.outside import without_worker
from kubetune.targets.cml import offers
from kubetune.targets.cml.archive import Runner, runner
from kubetune.targets.cml.manifests import NAME_PREFIX
from kubetune.targets.cml.offers import Offer, OfferError
from kubetune.targets.errors import BackendError

A = TypeVar("A", bound=Answer)
ReadAccess = Callable[[str, CmlTarget], Awaitable[tuple[str, str | None]]]
"""Namespace and target -> API key and, for a private authority, its certificates."""
logger = logging.getLogger(__name__)

ACCESS_SECONDS = 30.0
"""A changed Secret is seen within this time: Secrets are read, not watched."""
OFFERS_SECONDS = 600.0
USAGE_PAGES = 10
USAGE_MARGIN = timedelta(minutes=10)
"""Between a run and its row in the usage list."""
UNKNOWN_RETRY_SECONDS = 2.0
REFUSED_SECONDS = 60.0
"""Until it is tried again what somebody has to mend first."""


class Workspace:
    """The calls that the backend makes, with what needs to be asked only now and then."""

    def __init__(
        self, clients: CmlClients, read_access: ReadAccess, namespace: str, target: CmlTarget
    ) -> None:
        self.namespace = namespace
        self.target = target
        self._clients = clients
        self._read_access = read_access
        self._access: tuple[float, tuple[str, str | None]] | None = None
        self._project: Project | None = None
        self.project_id = ""
        """Id of the project, once it was found."""
        self._jobs: dict[str, list[Job]] = {}
        self._listed_at = float("-inf")
        self._listing = asyncio.Lock()
        self._offers: tuple[float, list[Runtime], list[AcceleratorNodeLabel]] | None = None
        self._placing = asyncio.Lock()
        self._placed_in = ""
        """Id of the project that has the runner; another of the same name has nothing."""
        self._remembered = False
        self._experiments: set[tuple[str, str]] = set()
        self.stopped: set[str] = set()
        """Ids of runs that we have ordered to stop: nobody did it by hand."""

    async def client(self) -> CmlClient:
        """The client with the key that the Secret holds now. Raises BackendError."""
        now = time.monotonic()
        if self._access is None or now - self._access[0] > ACCESS_SECONDS:
            try:
                self._access = now, await self._read_access(self.namespace, self.target)
            except (ApiError, ValueError) as error:
                raise BackendError(
                    Reason.CREDENTIALS_INVALID, f"{self.target.url}: {error}", retryable=True
                ) from error
        return self._clients.get(self.target.url, *self._access[1])

    async def project(self) -> Project:
        """The project. Raises CmlError, BackendError."""
        if self._project is None:
            try:
                self._project = await find_project(await self.client(), self.target.project)
                self.project_id = self._project.id
            except NotFoundError as error:
                raise BackendError(Reason.PROJECT_MISSING, str(error), retryable=True) from error
        return self._project

    async def check(self) -> None:
        """Ask whether workspace and project are there, with the Secret as it is now.

        Raises CmlError, BackendError.
        """
        self._access = self._project = None
        await self.project()

    async def read(self, operation: Operation[A], *ids: str) -> A:
        """An operation on the project that changes nothing."""
        project = await self.project()
        return await (await self.client()).read(operation, project.id, *ids)

    async def write(self, operation: Operation[A], *ids: str, body: Body | None = None) -> A:
        """An operation on the project that changes something."""
        project, client = await self.project(), await self.client()
        return await client.write(operation, project.id, *ids, body=body)

    async def jobs(self, name: str, since: float) -> list[Job]:
        """Jobs with exactly this name, from a listing begun at ``since`` (monotonic) or later."""
        await self._list(since)
        return list(self._jobs.get(name, ()))

    async def all_jobs(self, since: float) -> list[Job]:
        """All jobs that may be ours, with their environment, from such a listing."""
        await self._list(since)
        listed = [job for jobs in self._jobs.values() for job in jobs]
        found: list[Job] = []
        for job in listed:
            # Gone meanwhile is fine.
            with contextlib.suppress(NotFoundError):
                found.append(job if job.environment else await self.read(api.GET_JOB, job.id))
        return found

    async def _list(self, since: float) -> None:
        async with without_worker(), self._listing:
            # Whoever waited here meanwhile shares the listing.
            if self._listed_at < since:
                begun = time.monotonic()
                project, client = await self.project(), await self.client()
                found: dict[str, list[Job]] = {}
                try:
                    jobs = await client.pages(api.LIST_JOBS, project.id)
                except NotFoundError:
                    # The project is gone, and perhaps another has its name.
                    await self.check()
                    raise
                for job in jobs:
                    if job.name.startswith(f"{NAME_PREFIX}-"):
                        found.setdefault(job.name, []).append(job)
                self._jobs, self._listed_at = found, begun

    def relist(self) -> None:
        """What was listed is known to be out of date."""
        self._listed_at = float("-inf")

    async def runs(self, job_id: str, also: Iterable[str] = ()) -> list[JobRun]:
        """All runs of a job; those with an id in ``also`` even if the list is behind."""
        project, client = await self.project(), await self.client()
        try:
            runs = await client.pages(api.LIST_JOB_RUNS, project.id, job_id)
        except NotFoundError:
            # Deleted since the listing that was at hand.
            self.relist()
            raise
        runs = [run for run in runs if not _of_another(run, job_id)]
        for run_id in set(also) - {run.id for run in runs}:
            with contextlib.suppress(NotFoundError):
                runs.append(await self.read(api.GET_JOB_RUN, job_id, run_id))
        return runs

    async def download(self, path: str) -> bytes | None:
        """A file of the project; None when it isn't there."""
        project, client = await self.project(), await self.client()
        try:
            return await client.download(project.id, path)
        except NotFoundError:
            return None

    async def upload(self, path: str, content: bytes) -> None:
        """Write a file of the project."""
        project, client = await self.project(), await self.client()
        try:
            await client.upload(project.id, path, content)
        except UnknownOutcomeError as error:
            # Whatever has happened, the same can be written again.
            raise UnavailableError(str(error)) from error

    async def ensure_experiment(self, name: str) -> None:
        """Have an experiment of the project's own tracking."""
        project, client = await self.project(), await self.client()
        if (project.id, name) not in self._experiments:
            await ensure_experiment(client, project.id, name)
            self._experiments.add((project.id, name))

    async def usage(self, since: datetime | None) -> list[UsageResponse]:
        """Rows of workloads that began at ``since`` or later, which tell why one failed.

        The list is of the whole workspace: its newest pages are read, as far as it is in order.
        """
        client = await self.client()
        rows: list[UsageResponse] = []
        token = ""
        order = "-created_at"
        for _ in range(USAGE_PAGES):
            try:
                page, token = await client.page(api.LIST_USAGE, token=token, sort=order)
            except InvalidError:
                # Nowhere is said by what the list can be sorted.
                if not order:
                    raise
                page, token = await client.page(api.LIST_USAGE)
                order, since = "", None
            rows += page
            times = [row.created_at for row in page if row.created_at]
            if not token or (since and times and min(times) < since - USAGE_MARGIN):
                break
        return rows

    async def quota(self) -> UserQuota | None:
        """Quota of the key's owner; None where it can't be told from that of others."""
        client = await self.client()
        if not await client.supports(api.LIST_USERS_QUOTA):
            return None
        # Who may see but their own has one row.
        rows, token = await client.page(api.LIST_USERS_QUOTA, size=2)
        if len(rows) == 1 and not token:
            return rows[0]
        if not rows or not client.user:
            return None
        rows = await client.pages(api.LIST_USERS_QUOTA)
        return next((row for row in rows if row.user.user_name == client.user), None)

    async def create_job(self, body: CreateJobRequest) -> Job:
        """A new job; its creator is the key's owner."""
        made = await self.write(api.CREATE_JOB, body=body)
        (await self.client()).user = made.creator.username
        return made

    async def offer(self, resources: Resources) -> Offer:
        """Runtime and accelerator for a run. Raises BackendError when there are none."""
        now = time.monotonic()
        if self._offers is None or now - self._offers[0] > OFFERS_SECONDS:
            self._offers = now, await self.runtimes(), await self.accelerators() or []
        _, runtimes, labels = self._offers
        try:
            return Offer(
                project_id=(await self.project()).id,
                runtime=offers.choose_runtime(runtimes, self.target.runtime),
                accelerator_label_id=offers.choose_accelerator(labels, resources),
            )
        except OfferError as error:
            self._offers = None
            raise BackendError(Reason.TARGET_REFUSED, str(error), retryable=True) from error

    async def runtimes(self) -> list[Runtime]:
        """All runtimes of the workspace."""
        return await (await self.client()).pages(api.LIST_RUNTIMES)

    async def addons(self) -> list[RuntimeAddon]:
        """All runtime add-ons of the workspace."""
        return await (await self.client()).pages(api.LIST_RUNTIME_ADDONS)

    async def accelerators(self) -> list[AcceleratorNodeLabel] | None:
        """All accelerator labels; None on workspaces that have none."""
        client = await self.client()
        if not await client.supports(api.LIST_ACCELERATORS):
            return None
        try:
            return await client.pages(api.LIST_ACCELERATORS)
        except (NotFoundError, InvalidError):
            return None

    async def place_runner(self, *, anew: bool = False) -> tuple[str, Runner | None]:
        """Script and files of the runner in the project, uploaded where it has others.

        Whoever runs code in a project may write its files. The archive is checked by every run,
        and looked at here once, or ``anew``; the script, which checks it, each time.
        """
        if self.target.runner is not None:
            return self.target.runner.script, None
        # Packing takes a while the first time.
        ours = await asyncio.to_thread(runner)
        project_id = (await self.project()).id
        async with without_worker(), self._placing:
            self._remembered = self._placed_in == project_id and not anew
            has_script = await self._has(ours.script_path, ours.script)
            # Who has changed or removed one may have done so with both.
            look = not (has_script and self._remembered)
            if look and not await self._has(ours.archive_path, ours.archive):
                await self.upload(ours.archive_path, ours.archive)
            if not has_script:
                await self.upload(ours.script_path, ours.script)
            self._placed_in = project_id
        return ours.script_path, ours

    def doubt_runner(self) -> bool:
        """Look for the runner's files again; whether they were only remembered to be there."""
        self._placed_in = ""
        return self._remembered

    async def _has(self, path: str, content: bytes) -> bool:
        try:
            return await self.download(path) == content
        except InvalidError:
            # Larger than anything that is read.
            return False


def _of_another(run: JobRun, job_id: str) -> bool:
    """Whether a run is known to be of another job; ids of another form tell nothing."""
    same_form = ID.fullmatch(run.job_id) and ID.fullmatch(job_id)
    return bool(same_form) and run.job_id != job_id


def refused(error: CmlError, url: str) -> BackendError:
    """What a failed call means for a run."""
    reason, retryable, after = Reason.TARGET_UNREACHABLE, True, None
    match error:
        case CredentialsError(key_refused=True):
            reason = Reason.CREDENTIALS_INVALID
        case CredentialsError():
            reason = Reason.TARGET_REFUSED
        case ThrottledError():
            reason, after = Reason.TARGET_THROTTLED, error.retry_after
        case PackageMissingError():
            reason = Reason.PACKAGE_MISSING
        case UnknownOutcomeError():
            # Most often it has happened, and shows at once.
            reason, after = Reason.SUBMISSION_UNKNOWN, UNKNOWN_RETRY_SECONDS
        case NotFoundError() | ConflictError():
            reason = Reason.TARGET_REFUSED
        case InvalidError():
            reason, retryable = Reason.TARGET_REFUSED, False
        case AnswerRefusedError():
            reason, after = Reason.ANSWER_REFUSED, REFUSED_SECONDS
        case EgressRefusedError():
            reason, after = Reason.EGRESS_REFUSED, REFUSED_SECONDS
        case _:
            pass
    message = str(error)
    if url not in message:
        message = f"{url}: {message}"
    return BackendError(reason, message, retryable=retryable, retry_after=after)

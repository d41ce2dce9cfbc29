"""One project of a CML workspace, reached with the API key of one namespace."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from kubetune.api.cml_target import CmlTarget
from kubetune.api.conditions import Reason
from kubetune.api.plan import CML_FOLDER
from kubetune.api.training import Resources
from kubetune.backends.base import BackendError
from kubetune.backends.cml import offers
from kubetune.backends.cml.archive import runner
from kubetune.backends.cml.manifests import NAME_PREFIX
from kubetune.backends.cml.offers import Offer, OfferError
from kubetune.clients.cml import (
    CmlClient,
    CmlClients,
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
from kubetune.clients.cml_experiments import ensure_experiment
from kubetune.clients.cml_projects import find_project
from kubetune.clients.kubernetes import ApiError

JsonObject = dict[str, Any]
ReadAccess = Callable[[str, CmlTarget], Awaitable[tuple[str, str | None]]]
"""Namespace and target -> API key and, for a private authority, its certificates."""
logger = logging.getLogger(__name__)

ACCESS_SECONDS = 30.0
"""A changed Secret is seen within this time: Secrets are read, not watched."""
OFFERS_SECONDS = 600.0
UNKNOWN_RETRY_SECONDS = 2.0


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
        self._project: JsonObject | None = None
        self._jobs: dict[str, list[JsonObject]] = {}
        self._listed_at = float("-inf")
        self._listing = asyncio.Lock()
        self._offers: tuple[float, list[JsonObject], list[JsonObject]] | None = None
        self._placing = asyncio.Lock()
        self._placed_in = ""
        """Id of the project that has the runner; another of the same name has nothing."""
        self._remembered = False
        self._experiments: set[tuple[str, str]] = set()

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

    async def project(self) -> JsonObject:
        """The project. Raises CmlError, BackendError."""
        if self._project is None:
            try:
                self._project = await find_project(await self.client(), self.target.project)
            except NotFoundError as error:
                raise BackendError(Reason.PROJECT_MISSING, str(error), retryable=True) from error
        return self._project

    async def check(self) -> None:
        """Ask whether workspace and project are there, with the Secret as it is now.

        Raises CmlError, BackendError.
        """
        self._access = self._project = None
        await self.project()

    async def read(self, operation: str, *arguments: Any, **options: Any) -> JsonObject:
        """An operation on the project that changes nothing."""
        project = await self.project()
        return await (await self.client()).read(operation, project["id"], *arguments, **options)

    async def write(self, operation: str, *body_and_ids: Any) -> JsonObject:
        """An operation on the project that changes something; a body comes before all ids."""
        project, client = await self.project(), await self.client()
        if body_and_ids and isinstance(body_and_ids[0], dict):
            body, *ids = body_and_ids
            return await client.write(operation, body, project["id"], *ids)
        return await client.write(operation, project["id"], *body_and_ids)

    async def jobs(self, name: str, since: float) -> list[JsonObject]:
        """Jobs with exactly this name, from a listing begun at ``since`` (monotonic) or later."""
        async with self._listing:
            # Whoever waited here meanwhile shares the listing.
            if self._listed_at < since:
                begun = time.monotonic()
                project, client = await self.project(), await self.client()
                found: dict[str, list[JsonObject]] = {}
                try:
                    jobs = await client.pages("list_jobs", "jobs", project["id"])
                except NotFoundError:
                    # The project is gone, and perhaps another has its name.
                    await self.check()
                    raise
                for job in jobs:
                    if str(job.get("name")).startswith(f"{NAME_PREFIX}-"):
                        found.setdefault(str(job["name"]), []).append(job)
                self._jobs, self._listed_at = found, begun
        return list(self._jobs.get(name, ()))

    def relist(self) -> None:
        """What was listed is known to be out of date."""
        self._listed_at = float("-inf")

    async def runs(self, job_id: str) -> list[JsonObject]:
        """All runs of a job."""
        project, client = await self.project(), await self.client()
        try:
            return await client.pages("list_job_runs", "job_runs", project["id"], job_id)
        except NotFoundError:
            # Deleted since the listing that was at hand.
            self.relist()
            raise

    async def download(self, path: str) -> bytes | None:
        """A file of the project; None when it isn't there."""
        project, client = await self.project(), await self.client()
        try:
            return await client.download(project["id"], path)
        except NotFoundError:
            return None

    async def upload(self, path: str, content: bytes) -> None:
        """Write a file of the project."""
        project, client = await self.project(), await self.client()
        try:
            await client.upload(project["id"], path, content)
        except UnknownOutcomeError as error:
            # Whatever has happened, the same can be written again.
            raise UnavailableError(str(error)) from error

    async def ensure_experiment(self, name: str) -> None:
        """Have an experiment of the project's own tracking."""
        project, client = await self.project(), await self.client()
        if (project["id"], name) not in self._experiments:
            await ensure_experiment(client, project["id"], name)
            self._experiments.add((project["id"], name))

    async def usage(self) -> list[JsonObject]:
        """The newest usage rows of the workspace, which tell why a workload failed."""
        client = await self.client()
        return items_of(await client.read("list_usage", page_size=100, sort="-created_at"))

    async def offer(self, resources: Resources) -> Offer:
        """Runtime and accelerator for a run. Raises BackendError when there are none."""
        now = time.monotonic()
        if self._offers is None or now - self._offers[0] > OFFERS_SECONDS:
            self._offers = now, await self.runtimes(), await self.accelerators() or []
        _, runtimes, labels = self._offers
        try:
            return Offer(
                project_id=(await self.project())["id"],
                runtime=offers.choose_runtime(runtimes, self.target.runtime),
                accelerator_label_id=offers.choose_accelerator(labels, resources),
            )
        except OfferError as error:
            self._offers = None
            raise BackendError(Reason.TARGET_REFUSED, str(error), retryable=True) from error

    async def runtimes(self) -> list[JsonObject]:
        """All runtimes of the workspace."""
        return await (await self.client()).pages("list_runtimes", "runtimes")

    async def accelerators(self) -> list[JsonObject] | None:
        """All accelerator labels; None on workspaces that have none."""
        client, operation = await self.client(), "list_all_accelerator_node_labels"
        if not await client.supports(operation):
            return None
        try:
            return await client.pages(operation, "accelerator_node_label")
        except (NotFoundError, InvalidError):
            return None

    async def place_runner(self) -> tuple[str, str | None]:
        """Script and archive of the runner in the project, uploaded when they aren't there."""
        if self.target.runner is not None:
            return self.target.runner.script, None
        # Packing takes a while the first time.
        ours = await asyncio.to_thread(runner)
        project_id = (await self.project())["id"]
        async with self._placing:
            self._remembered = self._placed_in == project_id
            if not self._remembered:
                sizes = await self._sizes(CML_FOLDER)
                for path, content in (
                    (ours.archive_path, ours.archive),
                    (ours.script_path, ours.script),
                ):
                    if sizes.get(path) != len(content):
                        await self.upload(path, content)
                self._placed_in = project_id
        return ours.script_path, ours.archive_path

    def doubt_runner(self) -> bool:
        """Look for the runner's files again; whether they were only remembered to be there."""
        self._placed_in = ""
        return self._remembered

    async def _sizes(self, folder: str) -> dict[str, int]:
        try:
            answer = await self.read("list_project_files", folder)
        except NotFoundError:
            return {}
        return {
            f"{folder}/{str(file.get('path')).rsplit('/', 1)[-1]}": offers.whole(
                file.get("file_size")
            )
            or 0
            for file in answer.get("files") or ()
        }


def items_of(answer: JsonObject) -> list[JsonObject]:
    """The items of a list whose name in the answer is nowhere documented."""
    return next((items for items in answer.values() if isinstance(items, list)), [])


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
        case _:
            pass
    message = str(error)
    if url not in message:
        message = f"{url}: {message}"
    return BackendError(reason, message, retryable=retryable, retry_after=after)

"""The model registry of a CML workspace: one version for one run, whoever asks and how often.

The API has no idempotency keys, and the same call with the same name makes a further version. So
a version is looked up by the run that it was made from before one is created, a note on the run
says when a create was sent, and no other follows while the first may still show.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from dataclasses import replace

from kubetune.api.run import plan
from kubetune.clients.cml import (
    CmlClient,
    CmlError,
    ConflictError,
    CredentialsError,
    NotFoundError,
    UnknownOutcomeError,
)
from kubetune.clients.cml_models import (
    CreateRegisteredModelRequest,
    ExperimentRun,
    LogExperimentRunBatchRequest,
    RegisteredModel,
    RegisteredModelVersion,
)
from kubetune.clients.cml_operations import (
    CREATE_REGISTERED_MODEL,
    DELETE_REGISTERED_VERSION,
    GET_EXPERIMENT_RUN,
    GET_REGISTERED_VERSION,
    LIST_REGISTERED_MODELS,
    LIST_REGISTERED_VERSIONS,
    LOG_EXPERIMENT_RUN_BATCH,
)
from kubetune.clients.permission import taking_back
from kubetune.tracking.base import (
    RegisteredVersion,
    Registration,
    TrackingError,
    VersionTest,
)
from kubetune.tracking.cml_values import (
    DELETED,
    FAILED,
    PENDING,
    READY,
    CmlVersion,
    cml_version,
    run_tags,
    tag_list,
    tags_about,
)

logger = logging.getLogger(__name__)

SETTLE_SECONDS = 90.0
LOOK_SECONDS = 5.0
LOOK_AGAIN_SECONDS = 0.5
READY_WAIT_SECONDS = 5.0
_MILLISECONDS = re.compile("[0-9]{1,15}")
TAG_REGISTERING = "kubetune.registering"
"""Tag of a run: when a create was last sent, in milliseconds, and by which process."""
TAG_ALIAS = "kubetune.alias"
"""Tag of a version: the alias that was asked for. The registry has none."""


class CmlRegistry:
    """Finds and makes versions.

    For ``settle_seconds`` after a create was sent whose version doesn't show, no other is sent;
    it counts as not made from then on.
    """

    def __init__(self, client: CmlClient, settle_seconds: float = SETTLE_SECONDS) -> None:
        self._client = client
        self._settle_seconds = settle_seconds
        self._mark = secrets.token_hex(8)
        """Tells what was made here from what others have made."""
        self._made: set[str] = set()
        self._sent: dict[str, float] = {}
        """When the last create was sent, by run id."""

    async def find_identical(
        self, project_id: str, name: str, lineage_digest: str, believed: VersionTest
    ) -> RegisteredVersion | None:
        """The newest READY version with this lineage that is believed. Raises CmlError."""
        for version in reversed(await self._versions(name)):
            if version.status != READY:
                continue
            if version.tags.get(plan.TAG_LINEAGE, lineage_digest) != lineage_digest:
                continue
            found = await self._whole(project_id, version)
            if found.tags.get(plan.TAG_LINEAGE) == lineage_digest and believed(found):
                return found
        return None

    async def version(self, project_id: str, name: str, number: int) -> RegisteredVersion | None:
        """A version with all that was said of it; None when there is none. Raises CmlError."""
        for version in await self._versions(name):
            if version.number == number:
                return await self._whole(project_id, version)
        return None

    async def register(self, project_id: str, registration: Registration) -> CmlVersion:
        """The version made from the run, READY. Raises CmlError, TrackingError."""
        versions = await self._of_run(registration)
        if not versions:
            versions = await self._create(project_id, registration)
        oldest, *younger = sorted(versions, key=lambda version: version.age)
        for version in younger:
            # Somebody else registered the run at the same moment. The oldest stays, and
            # everybody removes their own younger one.
            if self._mark in version.notes or version.version_id in self._made:
                with taking_back():
                    await self._delete(version)
        return await self._when_ready(oldest)

    # --- making one

    async def _create(self, project_id: str, registration: Registration) -> list[CmlVersion]:
        path = registration.source.removeprefix(f"runs:/{registration.run_id}/")
        if path == registration.source:
            raise TrackingError(
                f"{registration.source} can't be registered in CML: its registry takes artifacts"
                " of an experiment's run alone",
                refused=True,
            )
        if not registration.experiment_id:
            raise TrackingError(f"the experiment of run {registration.run_id} is not known")
        await self._announce(project_id, registration)
        alias = registration.alias
        tags = (
            registration.tags | {plan.TAG_MODEL_PATH: path} | ({TAG_ALIAS: alias} if alias else {})
        )
        body = CreateRegisteredModelRequest(
            project_id=project_id,
            experiment_id=registration.experiment_id,
            run_id=registration.run_id,
            model_path=path,
            model_name=registration.name,
            tags=tag_list(tags),
            notes=f"Registered by kubetune, {self._mark}."
            + (f" Wanted alias: {alias}." if alias else ""),
            visibility="PRIVATE",
        )
        self._sent[registration.run_id] = time.monotonic()
        answer = RegisteredModel()
        try:
            answer = await self._client.write(CREATE_REGISTERED_MODEL, body=body)
        except UnknownOutcomeError as error:
            logger.info("registering run %s: %s", registration.run_id, error)
        except CmlError as error:
            # Refused, so nothing was made.
            del self._sent[registration.run_id]
            if isinstance(error, CredentialsError):
                raise TrackingError(
                    f"{error}; the key's owner needs the right to register models: grant it, use"
                    " the key of somebody who has it, or give the target tracking.type mlflow",
                    credentials=True,
                ) from error
            # Somebody else may have registered the run at this moment.
            if isinstance(error, ConflictError) and (found := await self._of_run(registration)):
                return found
            raise
        made = self._in_answer(answer, registration)
        return await self._shown(registration, made)

    async def _announce(self, project_id: str, registration: Registration) -> None:
        """Write down that a create is about to be sent; raises while another may still show."""
        experiment_id, run_id = registration.experiment_id, registration.run_id
        ids = (project_id, experiment_id, run_id)
        try:
            run = await self._client.read(GET_EXPERIMENT_RUN, *ids)
        except NotFoundError as error:
            # It was deleted, and doesn't come back.
            raise TrackingError(str(error), missing=True, refused=True) from error
        left = self._settle_seconds - self._since_last(run, run_id)
        if left > 0:
            raise _not_known(registration, left)
        now = time.monotonic()
        self._sent = {
            key: sent for key, sent in self._sent.items() if now - sent < self._settle_seconds
        }
        note = {TAG_REGISTERING: f"{int(time.time() * 1000)} {self._mark}"}
        body = LogExperimentRunBatchRequest(
            project_id=project_id, experiment_id=experiment_id, run_id=run_id, tags=tag_list(note)
        )
        try:
            await self._client.write(LOG_EXPERIMENT_RUN_BATCH, *ids, body=body)
        except CmlError as error:
            if error.retryable:
                raise
            # It only helps an operator that is restarted at the wrong moment.
            logger.warning("run %s can't be marked: %s", run_id, error)

    def _since_last(self, run: ExperimentRun, run_id: str) -> float:
        """Seconds since the last create was sent for the run, by anybody."""
        ages = [float("inf")]
        if run_id in self._sent:
            ages.append(time.monotonic() - self._sent[run_id])
        note = run_tags(run).get(TAG_REGISTERING, "")
        sent, _, by = note.partition(" ")
        # What was sent here is known better.
        if by != self._mark and _MILLISECONDS.fullmatch(sent):
            ages.append(abs(time.time() - int(sent) / 1000))
        return min(ages)

    def _in_answer(self, answer: RegisteredModel, registration: Registration) -> list[CmlVersion]:
        """What was made, when the answer tells."""
        found = (
            cml_version(item, answer.model_id, registration.name)
            for item in answer.model_versions
            if item.model_version_id
        )
        of_run = [version for version in found if version.run_id == registration.run_id]
        made = [version for version in of_run if self._mark in version.notes]
        if not made and len(of_run) == 1:
            made = of_run
        self._made |= {version.version_id for version in made}
        return made

    async def _shown(self, registration: Registration, made: list[CmlVersion]) -> list[CmlVersion]:
        """All versions of the run, once one shows."""
        deadline = time.monotonic() + min(LOOK_SECONDS, self._settle_seconds)
        while True:
            by_id = {version.version_id: version for version in made}
            by_id |= {version.version_id: version for version in await self._of_run(registration)}
            if by_id:
                return list(by_id.values())
            if time.monotonic() >= deadline:
                raise _not_known(registration, self._settle_seconds)
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _delete(self, version: CmlVersion) -> None:
        with contextlib.suppress(NotFoundError):
            await self._client.write(
                DELETE_REGISTERED_VERSION, version.model_id, version.version_id
            )

    async def _when_ready(self, version: CmlVersion) -> CmlVersion:
        deadline = time.monotonic() + READY_WAIT_SECONDS
        while version.status in (PENDING, FAILED):
            named = f"version {version.number} of {version.name}"
            if version.status == FAILED:
                raise TrackingError(
                    f"{named} is {FAILED}; delete it in the workspace's model registry to have"
                    " the run registered again"
                )
            if time.monotonic() > deadline:
                raise TrackingError(f"{named} is still {PENDING}")
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            item = await self._client.read(
                GET_REGISTERED_VERSION, version.model_id, version.version_id
            )
            version = cml_version(item, version.model_id, version.name)
        return version

    # --- finding some

    async def _whole(self, project_id: str, version: CmlVersion) -> RegisteredVersion:
        """With what stands on its run: signature and statement, and some workspaces lose the tags
        of versions.
        """
        tags = await self._run_tags(project_id, version)
        return replace(
            version, tags=tags | version.tags | tags_about(tags, version.name)
        ).registered()

    async def _of_run(self, registration: Registration) -> list[CmlVersion]:
        return [
            version
            for version in await self._versions(registration.name)
            if version.run_id == registration.run_id
        ]

    async def _versions(self, name: str) -> list[CmlVersion]:
        """All versions of models with exactly this name, oldest first."""
        models = await self._client.pages(LIST_REGISTERED_MODELS)
        found: list[CmlVersion] = []
        for model in models:
            if model.name == name:
                found += await self._versions_of(model.model_id, name)
        return sorted(found, key=lambda version: version.age)

    async def _versions_of(self, model_id: str, name: str) -> list[CmlVersion]:
        try:
            items = await self._client.pages(LIST_REGISTERED_VERSIONS, model_id)
            whole = [await self._with_metadata(model_id, item) for item in items]
        except NotFoundError:
            # Deleted a moment ago.
            return []
        versions = [cml_version(item, model_id, name) for item in whole]
        return [version for version in versions if version.status != DELETED]

    async def _with_metadata(
        self, model_id: str, item: RegisteredModelVersion
    ) -> RegisteredModelVersion:
        """The version with the run that it was made from, should listings come without."""
        if item.model_version_metadata is not None:
            return item
        return await self._client.read(GET_REGISTERED_VERSION, model_id, item.model_version_id)

    async def _run_tags(self, project_id: str, version: CmlVersion) -> dict[str, str]:
        if not version.run_id or not version.experiment_id:
            return {}
        project_id = version.project_id or project_id
        try:
            run = await self._client.read(
                GET_EXPERIMENT_RUN, project_id, version.experiment_id, version.run_id
            )
        except NotFoundError:
            return {}
        except CredentialsError as error:
            if error.key_refused:
                raise
            # In a project of somebody else.
            return {}
        return run_tags(run)


def _not_known(registration: Registration, seconds: float) -> TrackingError:
    return TrackingError(
        f"whether run {registration.run_id} was registered as {registration.name} is not known"
        f" yet: that was asked for and no version shows; unless one does, it is asked for again in"
        f" {seconds:.0f} s"
    )

"""The registry of an MLflow server: versions of runs, their names' owners, and aliases.

All of it may be repeated: the register call of an operator that died in the middle is finished by
the next one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import replace

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.run import plan
from kubetune.api.schema.base import DNS_LABEL
from kubetune.clients.addresses import segment
from kubetune.clients.permission import taking_back
from kubetune.queue.outside import background, without_worker
from kubetune.tracking.base import (
    AliasMove,
    RegisteredVersion,
    Registration,
    TrackingError,
    VersionTest,
)
from kubetune.tracking.mlflow_answers import (
    quoted,
    readable,
    tag_is,
    version_of,
)
from kubetune.tracking.rest import MlflowError, RestClient

logger = logging.getLogger(__name__)

VERSION_PAGE_SIZE = 200
MAX_PAGES = 100
MAX_FOUND = 10_000
READY_WAIT_SECONDS = 5.0
TAKE_BACK_SECONDS = 3.0
"""That a version may take to be made when the operator ends."""
READY_POLL_SECONDS = 0.25
LOGGED_MODEL = "models:/"
OWNER_SECONDS = 30.0
"""That a registered model is believed to stay its owner's: its inspection follows its making."""
MOST_OWNERS = 4096


class MlflowRegistry:
    """The calls of kubetune.tracking.base.Tracker that are about registered models."""

    def __init__(self, rest: RestClient) -> None:
        self._rest = rest
        self._making: dict[tuple[str, str], tuple[Registration, asyncio.Future[JsonObject]]] = {}
        """Versions that were asked for, by name and run, until it is known which one stays."""
        self._owners: dict[str, tuple[str, float]] = {}
        """Namespaces that names were seen to belong to, with monotonic seconds."""

    async def take_back(self) -> None:
        """Remove what was made beside another operator's version of the same run.

        To be called when this operator ends: the other one doesn't look again.
        """
        if making := list(self._making.values()):
            await asyncio.wait([call for _, call in making], timeout=TAKE_BACK_SECONDS)
        for registration, _ in making:
            with contextlib.suppress(TrackingError), taking_back():
                for double in (await self._versions_of_run(registration))[1:]:
                    logger.warning(
                        "removing version %s of %s, a duplicate", double.version, double.name
                    )
                    await self._delete_version(double)

    @readable
    async def alias_holder(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version that has the alias; None when none has it, or no model has the name."""
        query = {"name": name, "alias": alias}
        try:
            answer = await self._rest.call("GET", "registered-models/alias", query=query)
        except MlflowError as error:
            # No alias yet: an error code of its own kind, by the age of the server.
            if error.missing or error.code == "INVALID_PARAMETER_VALUE":
                return None
            raise
        return version_of(answer["model_version"])

    @readable
    async def move_alias(self, move: AliasMove) -> AliasMove:
        """Move the alias unless another version than the expected one has it; with ``holder``.

        MLflow compares nothing when it sets an alias, so it is compared here, just before.
        """
        version = {"name": move.name, "version": str(move.version)}
        tag = {**version, "key": move.tag}
        # The record first: an operator that dies in between finds out what it has done.
        await self._rest.call("POST", "model-versions/set-tag", {**tag, "value": move.note})
        holder = await self.alias_holder(move.name, move.alias)
        found = holder.version if holder else None
        if found == move.expected:
            body = {**version, "alias": move.alias}
            await self._rest.call("POST", "registered-models/alias", body)
            found = move.version
        elif found != move.version:
            await self._rest.call("DELETE", "model-versions/delete-tag", tag)
        return replace(move, holder=found)

    @readable
    async def claim(self, name: str, namespace: str, *, make: bool) -> None:
        """Have a registered model belong to the namespace that it was made for.

        Whoever makes one first has it: the server makes each name once, with its tags. One that
        people have made by hand has no such tag, and is for everybody.
        """
        owner = await self._owner(name)
        if owner is None and make:
            await self._create_registered_model(name, namespace)
            owner = await self._owner(name)
        if owner and owner != namespace:
            whose = f"namespace {owner}" if re.fullmatch(DNS_LABEL, owner) else "another namespace"
            raise TrackingError(
                f"registered model {name} belongs to {whose}: choose another name, or have the"
                " target's admin share it in spec.tracking.registry.allowedNames",
                refused=True,
            )

    @readable
    async def name_owner(self, name: str) -> str:
        """See kubetune.tracking.base.Tracker."""
        # Only a namespace is remembered: a name that is nobody's may be taken at any time.
        owner, seen = self._owners.get(name, ("", 0.0))
        if owner and time.monotonic() < seen + OWNER_SECONDS:
            return owner
        return await self._owner(name) or ""

    @readable
    async def find_identical(
        self, name: str, lineage_digest: str, believed: VersionTest
    ) -> RegisteredVersion | None:
        """The newest READY version with this lineage tag that is believed, and whose run and model
        still exist."""
        condition = f"name = {quoted(name)} and {tag_is(plan.TAG_LINEAGE, lineage_digest)}"
        for version in reversed(await self._search_versions(condition)):
            ready = version.status == "READY" and believed(version)
            if ready and await self._source_exists(version):
                # Searches leave the aliases out; all else is as it was believed.
                whole = await self._get_version(version)
                return replace(version, aliases=whole.aliases)
        return None

    @readable
    async def register(self, registration: Registration) -> RegisteredVersion:
        """The version made from the run: found or created, tagged, and alias moved to it.

        An alias that a newer version holds stays there: a register call that is repeated late
        must not undo that of a later job.
        """
        version = await self._version_of_run(registration)
        if version is None:
            version = await self._create_version(registration)
        self._making.pop((registration.name, registration.run_id), None)
        version = await self._when_ready(version)
        await self.tag_version(version, registration.experiment_id, registration.tags)
        if registration.alias:
            await self._move_alias(version, registration.alias)
        return await self._get_version(version)

    @readable
    async def tag_version(
        self, version: RegisteredVersion, experiment_id: str, tags: Mapping[str, str]
    ) -> None:
        """Set those tags of a version that it doesn't have as they should be."""
        for key, value in tags.items():
            if version.tags.get(key) != value:
                body = {"name": version.name, "version": str(version.version)}
                await self._rest.call(
                    "POST", "model-versions/set-tag", {**body, "key": key, "value": value}
                )

    async def _create_version(self, registration: Registration) -> RegisteredVersion:
        body: JsonObject = {
            "name": registration.name,
            "source": await self._stored_source(registration),
            "run_id": registration.run_id,
            # With the version, so that it is never seen without them.
            "tags": [{"key": key, "value": value} for key, value in registration.tags.items()],
        }
        if registration.source.startswith(LOGGED_MODEL):
            body["model_id"] = registration.source.removeprefix(LOGGED_MODEL)
        key = registration.name, registration.run_id
        # It is carried through: whoever waits for it may end, and what it makes must be known.
        call = background(self._make(body))
        call.add_done_callback(_heard)
        self._making[key] = registration, call
        try:
            async with without_worker():
                answer = await asyncio.shield(call)
        except MlflowError:
            self._making.pop(key, None)
            await self._check_source(registration)
            raise
        created = version_of(answer["model_version"])
        first = await self._version_of_run(registration)
        if first is not None and first.version < created.version:
            # Somebody else registered the run at the same moment. All see the same versions by
            # now, so the oldest stays and everybody removes their own younger one.
            with taking_back():
                await self._delete_version(created)
            created = first
        return created

    async def _delete_version(self, version: RegisteredVersion) -> None:
        body = {"name": version.name, "version": str(version.version)}
        await self._rest.call("DELETE", "model-versions/delete", body)

    async def _make(self, body: JsonObject) -> JsonObject:
        try:
            return await self._rest.call("POST", "model-versions/create", body)
        except MlflowError as error:
            if not error.missing:
                raise
        await self._create_registered_model(body["name"])
        return await self._rest.call("POST", "model-versions/create", body)

    async def _check_source(self, registration: Registration) -> None:
        """Raise TrackingError when the logged model is gone, for which MLflow answers 500."""
        model_id = registration.source.removeprefix(LOGGED_MODEL)
        if model_id == registration.source:
            return
        try:
            await self._rest.call("GET", f"logged-models/{segment(model_id)}")
        except MlflowError as error:
            if error.missing:
                raise TrackingError(str(error), missing=True, refused=True) from error

    async def _owner(self, name: str) -> str | None:
        """The namespace that a registered model belongs to, empty for none; None without one."""
        try:
            answer = await self._rest.call("GET", "registered-models/get", query={"name": name})
        except MlflowError as error:
            if error.missing:
                return None
            raise
        tags: list[JsonObject] = answer["registered_model"].get("tags") or []
        owner = next((tag["value"] for tag in tags if tag["key"] == plan.TAG_NAMESPACE), "")
        while len(self._owners) >= MOST_OWNERS:
            del self._owners[next(iter(self._owners))]
        self._owners[name] = owner, time.monotonic()
        return owner

    async def _create_registered_model(self, name: str, namespace: str = "") -> None:
        body: JsonObject = {"name": name}
        if namespace:
            body["tags"] = [{"key": plan.TAG_NAMESPACE, "value": namespace}]
        try:
            await self._rest.call("POST", "registered-models/create", body)
        except MlflowError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise

    async def _version_of_run(self, registration: Registration) -> RegisteredVersion | None:
        """The oldest version that was made from the source."""
        return next(iter(await self._versions_of_run(registration)), None)

    async def _versions_of_run(self, registration: Registration) -> list[RegisteredVersion]:
        """All versions that were made from the source, oldest first."""
        condition = f"name = {quoted(registration.name)} and run_id = {quoted(registration.run_id)}"
        versions = await self._search_versions(condition)
        if not versions:
            return []
        source = await self._stored_source(registration)
        return [version for version in versions if version.source == source]

    async def _stored_source(self, registration: Registration) -> str:
        """The source as the registry keeps it: artifacts of a run by their address."""
        path = registration.source.removeprefix(f"runs:/{registration.run_id}/")
        if path == registration.source:
            return path
        run = await self._run_info(registration.run_id)
        return f"{run['artifact_uri'].rstrip('/')}/{path}"

    async def _run_info(self, run_id: str) -> JsonObject:
        answer = await self._rest.call("GET", "runs/get", query={"run_id": run_id})
        return answer["run"]["info"]

    async def _when_ready(self, version: RegisteredVersion) -> RegisteredVersion:
        deadline = asyncio.get_running_loop().time() + READY_WAIT_SECONDS
        while version.status != "READY":
            if version.status == "FAILED_REGISTRATION":
                raise TrackingError(
                    f"version {version.version} of {version.name} is FAILED_REGISTRATION; delete"
                    " it in MLflow to have it registered again"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise TrackingError(
                    f"version {version.version} of {version.name} is still {version.status}"
                )
            await asyncio.sleep(READY_POLL_SECONDS)
            version = await self._get_version(version)
        return version

    async def _move_alias(self, version: RegisteredVersion, alias: str) -> None:
        holder = await self.alias_holder(version.name, alias)
        if holder and holder.version >= version.version:
            return
        body = {"name": version.name, "alias": alias, "version": str(version.version)}
        await self._rest.call("POST", "registered-models/alias", body)

    async def _get_version(self, version: RegisteredVersion) -> RegisteredVersion:
        query = {"name": version.name, "version": str(version.version)}
        answer = await self._rest.call("GET", "model-versions/get", query=query)
        return version_of(answer["model_version"])

    async def _source_exists(self, version: RegisteredVersion) -> bool:
        try:
            if version.run_id:
                run = await self._run_info(version.run_id)
                if run.get("lifecycle_stage") == "deleted":
                    return False
            # Artifacts of a run are there as long as the run.
            model_id = version.source.removeprefix(LOGGED_MODEL)
            if model_id != version.source:
                await self._rest.call("GET", f"logged-models/{segment(model_id)}")
        except MlflowError as error:
            if error.missing:
                return False
            raise
        return True

    async def _search_versions(self, condition: str) -> list[RegisteredVersion]:
        """Matching versions, oldest first, over all pages."""
        versions: list[RegisteredVersion] = []
        query = {"filter": condition, "max_results": str(VERSION_PAGE_SIZE)}
        for _ in range(MAX_PAGES):
            answer = await self._rest.call("GET", "model-versions/search", query=query)
            versions.extend(version_of(item) for item in answer.get("model_versions", ()))
            if not answer.get("next_page_token"):
                return sorted(versions, key=lambda version: version.version)
            if len(versions) > MAX_FOUND:
                break
            query["page_token"] = answer["next_page_token"]
        raise self._endless("versions")

    def _endless(self, what: str) -> TrackingError:
        return TrackingError(
            f"{self._rest.shown_uri} gives no end to the pages of {what}",
            reason=Reason.ANSWER_REFUSED,
        )


def _heard(call: asyncio.Future[JsonObject]) -> None:
    """Whoever waited for it may have ended; an error is no surprise then."""
    if not call.cancelled():
        call.exception()

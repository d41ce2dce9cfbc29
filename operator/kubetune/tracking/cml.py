"""The tracker of a CML workspace: its experiments and model registry over the workspace's API.

Runs inside the workspace report to ``cml://localhost``, which is only known there; the same
experiments are read here. See kubetune.tracking.cml_registry for the registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

from kubetune.api.run import evaluation_plan, plan
from kubetune.clients.cml import CmlClient, CmlError, CredentialsError, InvalidError, NotFoundError
from kubetune.clients.cml_experiments import experiment_ids
from kubetune.clients.cml_models import ExperimentRun, LogExperimentRunBatchRequest
from kubetune.clients.cml_operations import (
    GET_EXPERIMENT_RUN,
    LIST_EXPERIMENT_RUNS,
    LIST_EXPERIMENTS,
    LOG_EXPERIMENT_RUN_BATCH,
)
from kubetune.clients.cml_projects import find_project
from kubetune.tracking.base import (
    AliasMove,
    RegisteredVersion,
    Registration,
    RunTest,
    StorageCheck,
    TrackedRun,
    TrackingError,
    VersionTest,
)
from kubetune.tracking.cml_registry import SETTLE_SECONDS, CmlRegistry
from kubetune.tracking.cml_values import (
    LONGEST_TAG,
    pieces,
    run_age,
    run_status,
    run_tags,
    tag_list,
    tracked_run,
    version_tag,
)
from kubetune.tracking.values import best_evaluation

SERVER = "Cloudera AI experiments"


class CmlTracker:
    """One project of a workspace with one API key; see kubetune.tracking.base.Tracker.

    ``project`` is a name or an id. ``settle_seconds`` as in CmlRegistry.
    """

    def __init__(
        self, client: CmlClient, project: str, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        self.client = client
        self._project = project
        self._registry = CmlRegistry(client, settle_seconds)
        self._project_id = ""
        self._experiment_ids: dict[str, list[str]] = {}

    async def close(self) -> None:
        """Nothing: the connections are the client's."""

    async def server_version(self) -> str:
        """What answers; proves that the key is accepted and the project is there.

        The API doesn't tell the workspace's version.
        """
        with self._errors():
            self._project_id = ""
            await self.client.page(LIST_EXPERIMENTS, await self._project_found(), size=1)
        return SERVER

    async def check_storage(self) -> StorageCheck:
        """Nothing can be told: artifacts are written from within the workspace only."""
        return StorageCheck(
            None,
            "Runs write artifacts to the workspace's own store; only they can tell whether it"
            " works.",
        )

    # --- runs

    async def running(self, install_id: str, experiments: Sequence[str]) -> list[TrackedRun]:
        """All runs of this installation that are RUNNING in the experiments (by name)."""
        with self._errors():
            known = await self._experiments(experiments)
            listings = await asyncio.gather(
                *(self._runs(experiment_id, "RUNNING") for experiment_id in known)
            )
        found = [
            tracked_run(item, experiment_id)
            for experiment_id, items in zip(known, listings, strict=True)
            for item in items
            if run_tags(item).get(plan.TAG_INSTALL) == install_id
        ]
        if not found:
            # An experiment may have been deleted and made again under another id.
            self._experiment_ids.clear()
        return found

    async def find_run(self, run_key: str, experiment: str) -> TrackedRun | None:
        """The run of a key, in any state; the oldest if there should be two."""
        found = await self._tagged(experiment, plan.TAG_RUN_KEY, run_key)
        return found[0] if found else None

    async def find_evaluation(
        self, digest: str, experiment: str, believed: RunTest
    ) -> TrackedRun | None:
        """The newest run of an evaluation with this digest that has measured all, else most."""
        runs = await self._tagged(experiment, evaluation_plan.TAG_EVALUATION_DIGEST, digest)
        return best_evaluation(runs[::-1], believed)

    async def tag_run(self, run: TrackedRun, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        await self._tag(run.experiment_id, run.run_id, tags)

    # --- the registry

    async def claim(self, name: str, namespace: str, *, make: bool) -> None:
        """Nothing: registered models of CML carry no tags, and a project is one domain of trust."""

    async def name_owner(self, name: str) -> str:
        """Nobody, for the same reason."""
        return ""

    async def find_identical(
        self, name: str, lineage_digest: str, believed: VersionTest
    ) -> RegisteredVersion | None:
        """The newest READY version with this lineage tag that is believed."""
        with self._errors():
            return await self._registry.find_identical(
                await self._project_found(), name, lineage_digest, believed
            )

    async def version(self, name: str, number: int) -> RegisteredVersion | None:
        """A version with all that was said of it; None when there is none."""
        with self._errors():
            return await self._registry.version(await self._project_found(), name, number)

    async def tag_version(
        self, version: RegisteredVersion, experiment_id: str, tags: Mapping[str, str]
    ) -> None:
        """Set tags of a version: on its run, since a version of CML gets none later.

        Long ones are parted. Raises TrackingError, refused, when these can't be set, however that
        shows: an unknown limit may look like a fault that passes.
        """
        long = {key for key, value in tags.items() if len(value) > LONGEST_TAG}
        named = {version_tag(key, version.name): tags[key] for key in tags.keys() - long}
        path = version.source.removeprefix(f"runs:/{version.run_id}/")
        if named and path != version.source:
            # What is said is said of these files, and some workspaces lose the tags of versions.
            named[version_tag(plan.TAG_MODEL_PATH, version.name)] = path
        if named:
            await self._tag(experiment_id, version.run_id, named)
        for key in sorted(long):
            parts = pieces(version_tag(key, version.name), tags[key])
            try:
                await self._tag(experiment_id, version.run_id, parts)
            except TrackingError as error:
                raise TrackingError(f"{key} can't be set: {error}", refused=True) from error

    async def register(self, registration: Registration) -> RegisteredVersion:
        """The version made from the run: found or created. It never has an alias."""
        with self._errors():
            version = await self._registry.register(await self._project_found(), registration)
        return version.registered(registration.source)

    async def alias_holder(self, name: str, alias: str) -> RegisteredVersion | None:
        """None: the registry has no aliases."""
        return None

    async def move_alias(self, move: AliasMove) -> AliasMove:
        """Raises TrackingError: the registry has no aliases."""
        raise TrackingError(f"CML's registry has no aliases, so {move.alias} can't be moved")

    # --- what is in the project

    async def _tagged(self, experiment: str, key: str, value: str) -> list[TrackedRun]:
        """Runs of an experiment that have a tag, oldest first."""
        with self._errors():
            known = await self._experiments((experiment,))
            listings = await asyncio.gather(*(self._runs(experiment_id) for experiment_id in known))
        found = [
            (run_age(item), experiment_id, item)
            for experiment_id, items in zip(known, listings, strict=True)
            for item in items
            if run_tags(item).get(key) == value
        ]
        if not found:
            self._experiment_ids.pop(experiment, None)
        found.sort(key=lambda entry: entry[0])
        return [tracked_run(item, experiment_id) for _, experiment_id, item in found]

    async def _tag(self, experiment_id: str, run_id: str, tags: Mapping[str, str]) -> None:
        with self._errors():
            ids = (await self._project_found(), experiment_id, run_id)
            body = LogExperimentRunBatchRequest(
                project_id=ids[0], experiment_id=experiment_id, run_id=run_id, tags=tag_list(tags)
            )
            await self.client.write(LOG_EXPERIMENT_RUN_BATCH, *ids, body=body)

    async def _project_found(self) -> str:
        if not self._project_id:
            self._project_id = (await find_project(self.client, self._project)).id
        return self._project_id

    async def _experiments(self, names: Sequence[str]) -> list[str]:
        """The ids of all experiments of these names. Only ids are remembered."""
        unknown = set(names) - self._experiment_ids.keys()
        if unknown:
            project_id = await self._project_found()
            self._experiment_ids |= await experiment_ids(self.client, project_id, unknown)
        return [
            experiment_id
            for name in dict.fromkeys(names)
            for experiment_id in self._experiment_ids.get(name, ())
        ]

    async def _runs(self, experiment_id: str, status: str | None = None) -> list[ExperimentRun]:
        """Runs of an experiment, with their data; of one status when it is given.

        All pages are read and compared here: how the API's own filters match is not known.
        """
        project_id = await self._project_found()
        try:
            runs = await self.client.pages(LIST_EXPERIMENT_RUNS, project_id, experiment_id)
        except NotFoundError:
            # Deleted; the other experiments are still of interest.
            self._experiment_ids.clear()
            return []
        wanted = [run for run in runs if status is None or run_status(run.status) == status]
        return list(
            await asyncio.gather(
                *(self._with_data(project_id, experiment_id, run) for run in wanted)
            )
        )

    async def _with_data(
        self, project_id: str, experiment_id: str, run: ExperimentRun
    ) -> ExperimentRun:
        """The run with tags and metrics, should listings come without."""
        if run.data is not None:
            return run
        return await self.client.read(GET_EXPERIMENT_RUN, project_id, experiment_id, run.id)

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Errors of the client as those of trackers."""
        try:
            yield
        except CmlError as error:
            missing = isinstance(error, NotFoundError)
            if missing:
                # The project may have been deleted and made again under another id.
                self._project_id = ""
                self._experiment_ids.clear()
            raise TrackingError(
                str(error),
                credentials=isinstance(error, CredentialsError),
                missing=missing,
                refused=isinstance(error, InvalidError),
            ) from error

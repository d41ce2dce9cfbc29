"""Experiment runs in the simulator as training leaves them, and the trackers that read them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from kubetune.api.run import plan
from kubetune.clients.cml import CmlClient
from kubetune.clients.cml_experiments import ensure_experiment
from kubetune.clients.cml_models import (
    Answer,
    Body,
    Metric,
    Nothing,
    RegisteredModelVersion,
    Tag,
)
from kubetune.clients.cml_operations import (
    EXPERIMENT,
    EXPERIMENT_RUN,
    LIST_REGISTERED_MODELS,
    LIST_REGISTERED_VERSIONS,
    Operation,
)
from kubetune.tracking.base import Registration
from kubetune.tracking.cml import CmlTracker
from kubetune.tracking.cml_values import tag_list, tags_of
from kubetune_devcluster.cml.server import PROJECT, Simulator

INSTALL = "install-1"


class CreateExperimentRunRequest(Body):
    """A run as a workload begins it."""

    project_id: str | None = None
    experiment_id: str | None = None
    tags: list[Tag] | None = None


class RunBegun(Answer):
    """The run that was begun."""

    api_name: ClassVar[str] = "ExperimentRun"

    id: str = ""
    artifact_uri: str = ""


class Metrics(Body):
    """What a workload measures."""

    api_name: ClassVar[str] = "LogExperimentRunBatchRequest"

    metrics: list[Metric] | None = None


class ExperimentRunChange(Body):
    """A run as a workload ends it."""

    api_name: ClassVar[str] = "ExperimentRun"

    status: str | None = None


CREATE_EXPERIMENT_RUN = Operation(
    "create_experiment_run", EXPERIMENT, RunBegun, CreateExperimentRunRequest, key="id"
)
LOG_METRICS = Operation("log_experiment_run_batch", EXPERIMENT_RUN, Nothing, Metrics)
UPDATE_EXPERIMENT_RUN = Operation(
    "update_experiment_run", EXPERIMENT_RUN, Nothing, ExperimentRunChange
)


class Experiment:
    """An experiment of the simulator's project, by the API."""

    def __init__(
        self, simulator: Simulator, client: CmlClient, name: str, experiment_id: str
    ) -> None:
        self.simulator = simulator
        self.client = client
        self.name = name
        self.id = experiment_id
        self.project_id = simulator.project.id

    async def run(self, run_key: str, install: str = INSTALL, **tags: str) -> str:
        """A run with a model among its artifacts; its id."""
        given = {plan.TAG_RUN_KEY: run_key, plan.TAG_INSTALL: install, **tags}
        body = CreateExperimentRunRequest(
            project_id=self.project_id, experiment_id=self.id, tags=tag_list(given)
        )
        run = await self.client.write(CREATE_EXPERIMENT_RUN, self.project_id, self.id, body=body)
        model = Path(unquote(urlsplit(run.artifact_uri).path)) / "model"
        model.mkdir(parents=True)
        (model / "MLmodel").write_text("flavors: {}\n")
        return run.id

    async def log(self, run_id: str, *metrics: tuple[str, float, int]) -> None:
        """Log metrics as (key, value, step)."""
        logged = [Metric(key=key, value=value, step=str(step)) for key, value, step in metrics]
        ids = (self.project_id, self.id, run_id)
        await self.client.write(LOG_METRICS, *ids, body=Metrics(metrics=logged))

    async def end(self, run_id: str, status: str = "EXPERIMENT_RUN_FINISHED") -> None:
        """Give a run its last status."""
        ids = (self.project_id, self.id, run_id)
        await self.client.write(
            UPDATE_EXPERIMENT_RUN, *ids, body=ExperimentRunChange(status=status)
        )

    def registration(
        self, run_id: str, name: str = "tickets", alias: str | None = None
    ) -> Registration:
        """What to register for a run."""
        tags = {plan.TAG_LINEAGE: f"digest-{run_id}", plan.TAG_JOB: "tickets"}
        return Registration(name, alias, self.id, run_id, f"runs:/{run_id}/model", tags)

    async def versions(self, name: str = "tickets") -> list[RegisteredModelVersion]:
        """All versions of a registered model, as the server knows them."""
        found: list[RegisteredModelVersion] = []
        for model in await self.client.pages(LIST_REGISTERED_MODELS):
            if model.name == name:
                found += await self.client.pages(LIST_REGISTERED_VERSIONS, model.model_id)
        return found

    async def numbers(self, name: str = "tickets") -> list[int]:
        """The numbers of the versions that exist."""
        return sorted(version.number for version in await self.versions(name))


@asynccontextmanager
async def experiment_in(
    simulator: Simulator, name: str = "kubetune-team"
) -> AsyncGenerator[Experiment]:
    """An experiment with a client of its own, whose key nobody revokes."""
    client = CmlClient(simulator.url, simulator.add_key())
    try:
        experiment_id = await ensure_experiment(client, simulator.project.id, name)
        yield Experiment(simulator, client, name, experiment_id)
    finally:
        await client.close()


@asynccontextmanager
async def tracking(
    simulator: Simulator, project: str = PROJECT, **options: Any
) -> AsyncGenerator[CmlTracker]:
    """A tracker as an operator that was just started has it, with the simulator's first key."""
    client = CmlClient(simulator.url, simulator.api_key)
    try:
        yield CmlTracker(client, project, **options)
    finally:
        await client.close()


def tags_of_version(version: RegisteredModelVersion) -> dict[str, str]:
    """The version's own tags."""
    return tags_of(version.tags)

"""The tracker of a workspace against the simulator: what it reads, on good days and bad."""

import asyncio
import math
from typing import Any, Literal

import pytest
from kubetune.api.run import plan
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY
from kubetune.clients.cml import CmlClient
from kubetune.clients.cml_experiments import ensure_experiment
from kubetune.tracking.base import TrackingError
from kubetune.tracking.cml import CmlTracker
from kubetune.tracking.cml_values import tag_list
from kubetune_devcluster.cml.server import Simulator

from tests.believing import anybodys
from tests.cml.tracked import (
    CREATE_EXPERIMENT_RUN,
    INSTALL,
    CreateExperimentRunRequest,
    Experiment,
    experiment_in,
    tracking,
)

pytestmark = pytest.mark.usefixtures("cmlapi_path")


async def test_the_server_proves_key_and_project(simulator: Simulator, tracker: CmlTracker):
    assert await tracker.server_version() == "Cloudera AI experiments"
    check = await tracker.check_storage()
    assert check.writable is None
    assert "only they can tell" in check.message
    async with tracking(simulator, project=simulator.project.id) as by_id:
        await by_id.server_version()


@pytest.mark.parametrize("project", ["no-such-project", "aaaa-bbbb-cccc-dddd"])
async def test_a_project_that_is_not_there(simulator: Simulator, project: str):
    async with tracking(simulator, project=project) as tracker:
        with pytest.raises(
            TrackingError, match=rf"no project '{project}'.*spec\.cml\.project"
        ) as info:
            await tracker.server_version()
    assert info.value.missing
    assert not info.value.credentials


async def test_a_project_is_not_taken_for_another_of_a_similar_name(simulator: Simulator):
    simulator.behaviour.page_size_limit = 2
    for name in ("tune", "tuner", "Tune", "my tune", "größe"):
        simulator.add_project(name)
    wanted = simulator.add_project("größe 2")
    for _ in range(2):
        simulator.add_project("twice")
    async with tracking(simulator, project="größe 2") as tracker, experiment_in(simulator) as other:
        experiment_id = await ensure_experiment(other.client, wanted.id, "e")
        body = CreateExperimentRunRequest(tags=tag_list({plan.TAG_RUN_KEY: "key-1"}))
        await other.client.write(CREATE_EXPERIMENT_RUN, wanted.id, experiment_id, body=body)
        assert await tracker.find_run("key-1", "e")
    async with tracking(simulator, project="twice") as tracker:
        with pytest.raises(TrackingError, match=r"several projects are named 'twice'.*give the id"):
            await tracker.server_version()


async def test_a_project_that_was_made_anew_is_found(simulator: Simulator):
    project = simulator.add_project("mine")
    async with tracking(simulator, project="mine") as tracker:
        await tracker.running(INSTALL, ["e"])
        simulator.delete_project(project.id)
        with pytest.raises(TrackingError) as info:
            await tracker.running(INSTALL, ["e"])
        assert info.value.missing
        simulator.add_project("mine")
        assert await tracker.running(INSTALL, ["e"]) == []


@pytest.mark.parametrize("name_filter", ["substring", "exact", "ignored"])
async def test_running_finds_this_installations_running_runs(
    simulator: Simulator,
    experiment: Experiment,
    tracker: CmlTracker,
    name_filter: Literal["substring", "exact", "ignored"],
):
    simulator.behaviour.page_size_limit = 2
    simulator.behaviour.extra_fields = True
    simulator.behaviour.name_filter = name_filter
    mine = [await experiment.run(f"key-{number}") for number in range(5)]
    done = await experiment.run("key-done")
    await experiment.end(done)
    await experiment.run("key-other", install="install-2")
    await experiment.log(mine[0], (plan.METRIC_STEP, 3, 3), (plan.METRIC_STEP, 4, 4))
    await experiment.log(mine[0], ("loss", 0.0, 4), ("eval_loss", math.nan, 4))
    found = await tracker.running(INSTALL, [experiment.name, "no-such-experiment"])
    assert sorted(run.run_key for run in found) == [f"key-{number}" for number in range(5)]
    (run,) = (run for run in found if run.run_id == mine[0])
    assert (run.experiment_id, run.status) == (experiment.id, "RUNNING")
    assert run.metrics.pop("eval_loss") is math.nan
    assert run.metrics == {plan.METRIC_STEP: 4.0, "loss": 0.0}
    assert run.updated_ms > 0


async def test_one_listing_serves_all_runs_of_an_experiment(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    for number in range(20):
        await experiment.run(f"key-{number}")
    await tracker.running(INSTALL, [experiment.name])
    before = len(simulator.requests)
    assert len(await tracker.running(INSTALL, [experiment.name])) == 20
    assert [request.operation for request in simulator.requests[before:]] == [
        "list_experiment_runs"
    ]


async def test_experiments_of_similar_names_are_not_mixed_up(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    async with experiment_in(simulator, f"{experiment.name}-2") as other:
        await other.run("key-1")
    assert await tracker.running(INSTALL, [experiment.name]) == []
    assert await tracker.find_run("key-1", experiment.name) is None
    assert await tracker.find_run("key-1", other.name)


async def test_an_experiment_that_appears_later_is_found(simulator: Simulator, tracker: CmlTracker):
    assert await tracker.find_run("key-1", "later") is None
    assert await tracker.running(INSTALL, ["later"]) == []
    async with experiment_in(simulator, "later") as experiment:
        run_id = await experiment.run("key-1")
        (run,) = await tracker.running(INSTALL, ["later"])
        assert run.run_id == run_id
        await experiment.end(run_id, "EXPERIMENT_RUN_KILLED")
    found = await tracker.find_run("key-1", "later")
    assert found
    assert (found.run_id, found.status) == (run_id, "KILLED")


async def test_the_oldest_of_two_runs_of_a_key_counts(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    first = await experiment.run("key-1")
    await experiment.run("key-1")
    for order in ("oldest", "newest"):
        simulator.behaviour.default_order = order
        found = await tracker.find_run("key-1", experiment.name)
        assert found
        assert found.run_id == first


async def test_experiment_that_two_make_at_once_is_one(
    simulator: Simulator, experiment: Experiment
):
    client, project = experiment.client, simulator.project.id
    assert await ensure_experiment(client, project, experiment.name) == experiment.id
    assert simulator.count("create_experiment") == 1
    # Made by somebody between the look and the create, and an answer that was lost.
    faults: dict[str, Any] = {"b": {"status": 409}, "c": {"status": 500}, "d": {"close": True}}
    for name, fault in faults.items():
        simulator.faults.add("create_experiment", when="after", **fault)
        made = await ensure_experiment(client, project, name)
        assert made == await ensure_experiment(client, project, name)
    assert simulator.count("create_experiment") == 4


async def test_a_revoked_key_is_told(
    simulator: Simulator, experiment: Experiment, tracker: CmlTracker
):
    run_id = await experiment.run("key-1")
    await tracker.running(INSTALL, [experiment.name])
    simulator.revoke_key()
    for call in (
        tracker.server_version(),
        tracker.running(INSTALL, [experiment.name]),
        tracker.find_run("key-1", experiment.name),
        tracker.find_identical("tickets", "digest", anybodys),
        tracker.register(experiment.registration(run_id)),
    ):
        with pytest.raises(TrackingError, match="refuses the API key") as info:
            await call
        assert info.value.credentials
        assert simulator.api_key not in str(info.value)
    assert await experiment.numbers() == []


async def test_a_workspace_that_is_away_is_an_error(simulator: Simulator, tracker: CmlTracker):
    await tracker.server_version()
    await asyncio.to_thread(simulator.stop)
    with pytest.raises(TrackingError, match="can't be reached") as info:
        await tracker.running(INSTALL, ["e"])
    assert not info.value.credentials
    assert not info.value.missing
    await asyncio.to_thread(simulator.start)
    assert await tracker.running(INSTALL, ["e"]) == []


async def test_ids_are_asked_for_once(simulator: Simulator, experiment: Experiment):
    """A tracker that knows its project asks for nothing but runs."""
    client = CmlClient(simulator.url, simulator.api_key)
    tracker = CmlTracker(client, simulator.project.name)
    await experiment.run("key-1")
    for _ in range(3):
        await tracker.running(INSTALL, [experiment.name])
    await client.close()
    assert simulator.count("list_projects") == 1


async def test_complete_evaluations_are_found_by_their_digest(
    experiment: Experiment, tracker: CmlTracker
):
    begun = {TAG_EVALUATION_DIGEST: "sha256:1"}
    complete = {**begun, TAG_EVALUATION_SUMMARY: "{}"}
    await experiment.run("begun", **begun)
    assert await tracker.find_evaluation("sha256:1", experiment.name, anybodys) is None
    run_id = await experiment.run("complete", **complete)
    found = await tracker.find_evaluation("sha256:1", experiment.name, anybodys)
    assert found is not None
    assert found.run_id == run_id
    assert await tracker.find_evaluation("sha256:2", experiment.name, anybodys) is None

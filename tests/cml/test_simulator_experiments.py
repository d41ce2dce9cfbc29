"""Experiments and registry: the REST side and a workload's MLflow see one store."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from kubetune_devcluster.cml.server import ManualClock, Script, Simulator

from tests.cml.test_simulator import refused
from tests.cml.test_simulator_runs import ended

MLMODEL = "flavors: {}\n"


def pairs(items: Any) -> dict[str, str]:
    """Tags or parameters as a mapping."""
    return {item.key: item.value for item in items}


def tracked_run(
    simulator: Simulator, client: Any, clock: ManualClock, files: Mapping[str, str] | None = None
) -> Any:
    """The experiment run of a scripted run that has succeeded."""
    simulator.script_for = lambda _job, _run: Script(
        [("ENGINE_RUNNING", 10)],
        experiment="exp",
        tags={"run-key": "k"},
        final_tags={"phase": "done"},
        metrics=[(1, "loss", 3.0, 1), (5, "loss", float("nan"), 2), (9, "loss", 1.5, 3)],
        artifacts=files or {"model/MLmodel": MLMODEL, "model/weights": "w"},
    )
    simulator.start_run(simulator.add_job("a").id)
    clock.advance(10)
    project = simulator.project.id
    (experiment,) = client.list_experiments(project).experiments
    (run,) = client.list_experiment_runs(project, experiment.id).experiment_runs
    return run


def registration(simulator: Simulator, run: Any, **fields: Any) -> dict[str, Any]:
    """The request to register a run's model."""
    return {
        "project_id": simulator.project.id,
        "experiment_id": run.experiment_id,
        "run_id": run.id,
        "model_path": "model",
        "model_name": "it's mine",
        **fields,
    }


def test_experiments_by_rest(client: Any, simulator: Simulator) -> None:
    project, other = simulator.project.id, simulator.add_project("other").id
    made = client.create_experiment({"name": "größe"}, project)
    refused(lambda: client.create_experiment({"name": "größe"}, project), 409, 6)
    elsewhere = client.create_experiment({"name": "größe"}, other)
    assert made.id != elsewhere.id
    assert [one.name for one in client.list_experiments(project).experiments] == ["größe"]
    refused(lambda: client.get_experiment(project, elsewhere.id), 404, 5)
    body = {"tags": [{"key": "a", "value": "1"}]}
    run = client.create_experiment_run(body, project, made.id)
    assert (run.status, pairs(run.data.tags)["a"]) == ("EXPERIMENT_RUN_RUNNING", "1")
    batch = {
        "metrics": [
            {"key": "loss", "value": 2.0, "step": 1, "timestamp": "2026-01-01T00:00:00Z"},
            {"key": "loss", "value": 1.0, "step": "2"},
        ],
        "params": [{"key": "rank", "value": "8"}],
        "tags": [{"key": "a", "value": "2"}],
    }
    client.log_experiment_run_batch(batch, project, made.id, run.id)
    found = client.get_experiment_run(project, made.id, run.id)
    assert pairs(found.data.params) == {"rank": "8"}
    assert pairs(found.data.tags)["a"] == "2"
    assert [(m.value, m.step) for m in found.data.metrics] == [(1.0, "2")]
    history = client.get_experiment_run_metrics(project, made.id, run.id, "loss").metrics
    assert [(m.value, m.step) for m in history] == [(2.0, "1"), (1.0, "2")]
    assert history[0].timestamp.year == 2026
    done = {"status": "EXPERIMENT_RUN_FINISHED", "end_time": "2026-01-02T00:00:00Z"}
    over = client.update_experiment_run(done, project, made.id, run.id)
    assert (over.status, over.end_time.day) == ("EXPERIMENT_RUN_FINISHED", 2)
    wrong = {"status": "DONE"}
    refused(lambda: client.update_experiment_run(wrong, project, made.id, run.id), 400, 3)
    refused(lambda: client.get_experiment_run(project, made.id, "none"), 404, 5)
    filters = [{"tags.a": "2"}, {"tags.a": "3"}, {"params.rank": "8"}, {"status": "x"}]
    counts = [
        len(client.list_experiment_runs(
            project, made.id, search_filter=json.dumps(one)).experiment_runs)
        for one in filters
    ]  # fmt: skip
    assert counts == [1, 0, 1, 0]


def test_a_scripted_run_logs_as_time_passes(
    client: Any, simulator: Simulator, clock: ManualClock
) -> None:
    run = tracked_run(simulator, client, clock)
    assert run.status == "EXPERIMENT_RUN_FINISHED"
    assert {"run-key": "k", "phase": "done"}.items() <= pairs(run.data.tags).items()
    assert {file.path for file in run.data.files} == {"model", "model/MLmodel", "model/weights"}
    simulator.start_run(simulator.add_job("b").id)
    clock.advance(6)
    runs = client.list_experiment_runs(simulator.project.id, run.experiment_id).experiment_runs
    newest = runs[0]
    assert newest.status == "EXPERIMENT_RUN_RUNNING"
    assert [str(m.value) for m in newest.data.metrics] == ["nan"]
    assert "phase" not in pairs(newest.data.tags)
    simulator.behaviour.lose_run_tags = True
    found = client.get_experiment_run(simulator.project.id, run.experiment_id, run.id)
    assert found.data.tags == []


def test_each_registration_makes_a_version(
    client: Any, simulator: Simulator, clock: ManualClock
) -> None:
    run = tracked_run(simulator, client, clock)
    body = registration(simulator, run, tags=[{"key": "digest", "value": "d"}], notes="first")
    first = client.create_registered_model(body)
    second = client.create_registered_model(body)
    assert first.model_id == second.model_id
    assert [v.number for v in (*first.model_versions, *second.model_versions)] == [1, 2]
    simulator.behaviour.page_size_limit = 1
    page = client.get_registered_model(first.model_id, sort="+number")
    assert (page.count, [v.number for v in page.model_versions]) == (2, [1])
    page = client.get_registered_model(
        first.model_id, sort="+number", page_token=page.next_page_token
    )
    assert ([v.number for v in page.model_versions], page.next_page_token) == ([2], "")
    version = client.get_registered_model_version(
        first.model_id, first.model_versions[0].model_version_id
    )
    assert version.model_version_metadata.mlflow_metadata.run_id == run.id
    assert (pairs(version.tags), version.notes) == ({"digest": "d"}, "first")
    (model,) = client.list_registered_models(search_filter='{"model_name": "mine"}').models
    assert (model.name, model.model_id) == ("it's mine", first.model_id)
    change = {"model_version_id": version.model_version_id, "notes": "better"}
    assert client.update_registered_model_version(change, model.model_id).notes == "better"
    change = {"model_id": model.model_id, "visibility": "PUBLIC"}
    assert client.update_registered_model(change).visibility == "PUBLIC"
    client.delete_registered_model_version(model.model_id, version.model_version_id)
    refused(
        lambda: client.get_registered_model_version(model.model_id, version.model_version_id),
        404,
        5,
    )
    client.delete_registered_model(model.model_id)
    refused(lambda: client.get_registered_model(model.model_id), 404, 5)


def test_a_registry_that_loses_tags(client: Any, simulator: Simulator, clock: ManualClock) -> None:
    simulator.behaviour.lose_tags = True
    run = tracked_run(simulator, client, clock)
    body = registration(simulator, run, tags=[{"key": "digest", "value": "d"}])
    (version,) = client.create_registered_model(body).model_versions
    assert version.tags == []
    assert version.model_version_metadata.mlflow_metadata.run_id == run.id


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"run_id": "none"}, 404, 5),
        ({"experiment_id": "0"}, 404, 5),
        ({"model_path": "nothing"}, 400, 3),
        ({"model_path": "../../.."}, 400, 3),
        ({"model_name": ""}, 400, 3),
        ({"visibility": "private"}, 400, 3),
    ],
)
def test_what_can_not_be_registered_is_refused(
    client: Any,
    simulator: Simulator,
    clock: ManualClock,
    fields: dict[str, str],
    status: int,
    code: int,
) -> None:
    run = tracked_run(simulator, client, clock)
    body = registration(simulator, run, **fields)
    refused(lambda: client.create_registered_model(body), status, code)
    assert client.list_registered_models().models == []


WORKLOAD = """\
import sys
from pathlib import Path
import mlflow
from mlflow.exceptions import MlflowException

mlflow.set_experiment("from inside")
with mlflow.start_run(tags={"run-key": "inside"}) as run:
    mlflow.log_metric("loss", 0.5, step=7)
    Path("model").mkdir(exist_ok=True)
    Path("model/MLmodel").write_text("flavors: {}\\n")
    mlflow.log_artifacts("model", "model")
    try:
        mlflow.initialize_logged_model(name="x")
    except MlflowException as error:
        print("refused:", error)
names = [one.name for one in mlflow.search_experiments()]
assert names == ["from inside"], names
assert mlflow.get_experiment(run.info.experiment_id).name == "from inside"
"""

LOADER = """\
from pathlib import Path
import mlflow
folder = mlflow.artifacts.download_artifacts("models:/registered/1", dst_path="loaded")
assert Path(folder, "MLmodel").is_file()
"""


def test_workloads_and_the_api_see_the_same(client: Any, simulator: Simulator) -> None:
    simulator.mode = "process"
    project = simulator.project.id
    simulator.write("inside.py", WORKLOAD)
    run = simulator.start_run(simulator.add_job("a", script="inside.py").id)
    assert ended(simulator, run.id).status == "ENGINE_SUCCEEDED", simulator.log(run.id)
    assert "refused: the tracking of this workspace has no logged models" in simulator.log(run.id)
    (experiment,) = client.list_experiments(project).experiments
    assert experiment.name == "from inside"
    (found,) = client.list_experiment_runs(project, experiment.id).experiment_runs
    assert pairs(found.data.tags)["run-key"] == "inside"
    assert [(m.key, m.value, m.step) for m in found.data.metrics] == [("loss", 0.5, "7")]
    client.create_registered_model(registration(simulator, found, model_name="registered"))
    simulator.write("loader.py", LOADER)
    run = simulator.start_run(simulator.add_job("b", script="loader.py").id)
    assert ended(simulator, run.id).status == "ENGINE_SUCCEEDED", simulator.log(run.id)

"""Trainings, evaluations and inspections that report to a workspace's own tracking server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_SUMMARY, EvaluationSummary
from kubetune.api.run.outcome import Outcome
from kubetune_runner.answering.folder import ENV_BASE_MODEL
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import upload
from kubetune_runner.model import file_list
from kubetune_runner.sample.tickets import tickets

from tests.runners.cml_project import PACKAGES, Project, inline_rows
from tests.runners.conftest import PlanFactory
from tests.runners.evaluation_fixtures import EvaluationFactory
from tests.runners.inspection_fixtures import model_files, write

PLUGIN = '''
"""A tracking server of an older MLflow: files, no logged models, no search, bad connections."""

import os

from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.file_store import FileStore as Registry
from mlflow.store.tracking.file_store import FileStore


def flaky(name):
    def call(self, *arguments, **options):
        if name not in self.called:
            self.called.add(name)
            raise MlflowException("('Connection aborted.', ConnectionResetError(104))")
        return getattr(FileStore, name)(self, *arguments, **options)

    return call


class Store(FileStore):
    def __init__(self, store_uri, artifact_uri=None):
        self.called = set()
        super().__init__(os.environ["WORKSPACE_STORE"])

    get_experiment_by_name = flaky("get_experiment_by_name")
    create_run = flaky("create_run")
    log_batch = flaky("log_batch")
    get_metric_history = flaky("get_metric_history")

    def create_experiment(self, name, *arguments, **options):
        super().create_experiment(name, *arguments, **options)
        raise MlflowException("somebody else made it a moment ago")

    def get_run(self, run_id):
        if "MLFLOW_EXPERIMENT_ID" not in os.environ:
            raise MlflowException("no active experiment")
        return super().get_run(run_id)

    def _search_runs(self, experiments, filter, *arguments, **options):
        if filter:
            raise MlflowException("filters are not supported")
        return super()._search_runs(experiments, filter, *arguments, **options)

    def create_logged_model(self, *arguments, **options):
        raise NotImplementedError

    def search_logged_models(self, *arguments, **options):
        raise NotImplementedError

    def log_inputs(self, run_id, datasets=None):
        raise NotImplementedError


class Versions(Registry):
    def __init__(self, store_uri, tracking_uri=None):
        super().__init__(os.environ["WORKSPACE_STORE"])
'''
ENTRY_POINTS = """
[mlflow.tracking_store]
cml = workspace_plugin:Store

[mlflow.model_registry_store]
cml = workspace_plugin:Versions
"""
WORKSPACE = {"uri": "cml://localhost", "experiment": "kubetune-ns"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def workspace(tmp_path: Path) -> dict[str, Any]:
    """Options of a run where MLflow's plugin for ``cml://`` is installed."""
    folder = tmp_path / "cmladdons"
    write(folder, {"workspace_plugin.py": PLUGIN})
    metadata = "Metadata-Version: 2.1\nName: workspace-plugin\nVersion: 1\n"
    write(
        folder / "workspace_plugin-1.dist-info",
        {"METADATA": metadata, "entry_points.txt": ENTRY_POINTS},
    )
    return {
        "packages": f"{folder}:{PACKAGES}",
        "WORKSPACE_STORE": str(tmp_path / "store"),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": "cml://localhost",
    }


def run_in(workspace: dict[str, Any], code: str, *arguments: str) -> str:
    """Run Python code as a session of the workspace; returns what it prints."""
    environment = {name: value for name, value in workspace.items() if name != "packages"}
    result = subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        env={**environment, "PYTHONPATH": workspace["packages"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


READ_RUNS = """
import json, sys
from pathlib import Path
from urllib.parse import urlsplit
import mlflow
from mlflow.tracking import MlflowClient


def artifacts_of(run):
    return Path(urlsplit(run.info.artifact_uri).path)


# Each first call of a client fails here, as it does in a bad hour.
try:
    mlflow.get_experiment_by_name("kubetune-ns")
except mlflow.MlflowException:
    pass
experiment = mlflow.set_experiment("kubetune-ns")
found = {}
for run in MlflowClient().search_runs([experiment.experiment_id]):
    found[run.data.tags["kubetune.run_key"]] = {
        "experiment": experiment.experiment_id,
        "id": run.info.run_id,
        "status": run.info.status,
        "tags": run.data.tags,
        "loss": run.data.metrics.get("loss"),
        "logs": sorted(path.name for path in (artifacts_of(run) / "logs").glob("*")),
    }
if len(sys.argv) > 1:
    model = mlflow.pyfunc.load_model(f"runs:/{found['key']['id']}/{sys.argv[1]}")
    found["answers"] = list(model.predict(["Printer is on fire"], params={"max_new_tokens": 4}))
    found["flavor"] = [model.metadata.run_id, model.metadata.artifact_path]
print(json.dumps(found))
"""


def training(make_plan: PlanFactory, run_key: str = "key", **over: Any) -> dict[str, Any]:
    """A plan as the operator hands it to CML: inline rows, a model in the project."""
    plan = make_plan(tracking=WORKSPACE, run={"runKey": run_key}, **over).to_json()
    plan["dataset"]["files"] = {
        "directory": names.PLAN_DIRECTORY,
        "glob": "rows.jsonl",
        "format": "jsonl",
    }
    plan["model"]["directory"] = f"{names.PROJECT_DIRECTORY}/models/tiny"
    plan["training"]["checkpoint"]["directory"] = f"{names.CHECKPOINT_DIRECTORY}/key"
    return plan


# tests/cml trains so with the operator in every run.
@pytest.mark.exhaustive
@pytest.mark.training
def test_a_training_in_the_workspace(
    make_plan: PlanFactory, project: Project, workspace: dict[str, Any], tiny_model: Path
) -> None:
    base = shutil.copytree(tiny_model, project.folder / "models" / "tiny")
    for run_key in ("key", "refused"):
        project.put(names.INLINE_ROWS_FILE, inline_rows(tickets(64)), run_key)
    too_long = {"hyperparameters": {"maxLength": 100_000}}
    refused = training(make_plan, "refused", training=too_long)
    code, output = project.run(refused, run_key="refused", **workspace)
    assert code == 1, output
    code, output = project.run(training(make_plan), attempt=2, **workspace)
    assert code == 0, output
    outcome = project.outcome(2)
    assert (outcome.status, outcome.reason) == ("succeeded", "Trained"), output

    session = {**workspace, ENV_BASE_MODEL: str(base)}
    found = json.loads(run_in(session, READ_RUNS, "model"))
    run = found["key"]
    summary, tags = outcome.summary, run["tags"]
    assert summary["artifactPath"] == "model"
    assert "modelId" not in summary
    assert (summary["runId"], summary["experimentId"]) == (run["id"], run["experiment"])
    assert run["status"] == "FINISHED", output
    assert tags[names.TAG_MODEL_PATH] == "model"
    assert names.TAG_MODEL_ID not in tags
    assert (tags[names.TAG_PHASE], tags[names.TAG_ATTEMPT]) == ("succeeded", "2")
    assert Outcome.from_message(tags[names.outcome_tag(2)]) == outcome
    assert run["loss"] is not None
    assert run["logs"] == ["attempt-2.log"]
    assert len(found["answers"]) == 1
    assert found["flavor"] == [run["id"], "model"]

    outcome = project.outcome(run_key="refused")
    assert outcome.reason == "MaxLengthTooLarge"
    assert found["refused"]["status"] == "FAILED"
    assert found["refused"]["logs"] == ["attempt-1.log"]
    assert "failed: MaxLengthTooLarge" in outcome.log.splitlines()[-1]
    told = Outcome.from_message(found["refused"]["tags"][names.outcome_tag(1)])
    assert told == outcome.model_copy(update={"log": ""})
    # What is large is gone, what the operator reads is not.
    assert not (project.root() / "kubetune" / "checkpoints").exists()
    assert not (project.root() / "kubetune" / "work").exists()


REGISTER = """
import sys
import mlflow
from mlflow.tracking import MlflowClient

client = MlflowClient()
client.create_registered_model("base")
client.create_model_version("base", f"file://{sys.argv[1]}")
"""


def test_inspections_in_the_workspace(
    project: Project, workspace: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path / "base", model_files())
    run_in(workspace, REGISTER, str(tmp_path / "base"))
    identity = {"installId": "i", "runKey": "key", "namespace": "ns", "name": "it", "uid": "u"}
    common = {"version": 1, "run": identity, "tracking": WORKSPACE}

    def model(uri: str) -> dict[str, Any]:
        return {**common, "kind": "inspectModel", "model": {"name": "m", "registryUri": uri}}

    code, output = project.run(model("models:/base/1"), **workspace)
    assert code == 0, output
    summary = project.outcome().summary
    assert (summary["type"], summary["revision"], summary["parameters"]) == ("base", "1", 1536)
    code, output = project.run(model("models:/base/7"), attempt=2, **workspace)
    assert code == 1
    assert project.outcome(2).reason == "RegistryNotFound", output

    project.put(names.INLINE_ROWS_FILE, '{"prompt": "", "completion": "c"}\n' * 50)
    files = {"directory": names.PLAN_DIRECTORY, "glob": "rows.jsonl", "format": "jsonl"}
    dataset = {"name": "d", "files": files, "format": "promptCompletion", "columns": {}}
    plan = {**common, "kind": "inspectDataset", "dataset": {**dataset, "splits": {}}}
    code, output = project.run(plan, attempt=3, **workspace)
    run = json.loads(run_in(workspace, READ_RUNS))["key"]
    assert project.outcome(3).summary["reportUri"] == f"runs:/{run['id']}/inspection.json", output
    assert run["status"] == "FINISHED", output


def test_a_runtime_without_the_plugin(
    make_plan: PlanFactory, project: Project, workspace: dict[str, Any]
) -> None:
    project.put(names.INLINE_ROWS_FILE, inline_rows(tickets(8)))
    code, output = project.run(training(make_plan), **(workspace | {"packages": PACKAGES}))
    assert code == 1, output
    outcome = project.outcome()
    assert (outcome.reason, outcome.retryable) == ("TrackingUnsupported", False)
    assert "cml://localhost" in outcome.message


@pytest.fixture
def older_server(mlflow_server: str) -> Iterator[str]:
    """The MLflow server without the calls for logged models."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            if "/logged-models" in self.path:
                return self.send_error(404)
            request = urllib.request.Request(
                mlflow_server + self.path, body, dict(self.headers), method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return self.reply(answer.status, answer.read(), answer.headers)
            except urllib.error.HTTPError as error:
                return self.reply(error.code, error.read(), error.headers)

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def reply(self, status: int, body: bytes, headers: Any) -> None:
            self.send_response(status)
            self.send_header("Content-Type", headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_refuses_logged_models_gets_run_artifacts(
    make_plan: PlanFactory,
    older_server: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow.artifacts import download_artifacts

    files = {"adapter_config.json": "{}", "kubetune.json": "{}"}
    folder = write(tmp_path / "result" / "adapter", files)
    caplog.set_level("INFO", "kubetune_runner")
    tracker = Tracker(make_plan(tracking={"uri": older_server}))
    tracker.start()
    told = upload(tracker, folder, {"rows.json": {"train": 1}})
    assert told["artifactPath"] == "model"
    assert tracker.close("FINISHED", 60)
    # Its client would ask for logged models if it listed the folder.
    (tmp_path / "copy").mkdir()
    model = download_artifacts(
        artifact_uri=f"runs:/{tracker.run_id}/model",
        dst_path=str(tmp_path / "copy"),
        tracking_uri=older_server,
    )
    assert {path.name for path in Path(model).iterdir()} > {"MLmodel", "artifacts", "loader.py"}
    assert (Path(model) / "artifacts" / "adapter" / "adapter_config.json").is_file()
    file_list.check("tuned", Path(model), told["filesDigest"])
    assert {"MLmodel", "loader.py", "artifacts/adapter/adapter_config.json"} < told["files"].keys()
    assert "keeps no logged models" in caplog.text
    assert not (tmp_path / "result" / "packed").exists()


@pytest.mark.training
def test_an_evaluation_in_the_workspace(
    make_evaluation: EvaluationFactory,
    project: Project,
    workspace: dict[str, Any],
    tiny_model: Path,
) -> None:
    shutil.copytree(tiny_model, project.folder / "models" / "tiny")
    project.put(names.INLINE_ROWS_FILE, inline_rows(tickets(16)))
    source = "def metric(prediction, reference, row):\n    return len(reference)"
    plan = make_evaluation(
        tracking=WORKSPACE,
        run={"runKey": "key"},
        customMetrics=[{"name": "size", "source": source, "timeoutSeconds": 60}],
    ).to_json()
    plan["dataset"]["files"] = {
        "directory": names.PLAN_DIRECTORY,
        "glob": "rows.jsonl",
        "format": "jsonl",
    }
    plan["model"]["directory"] = f"{names.PROJECT_DIRECTORY}/models/tiny"
    code, output = project.run(plan, **workspace)
    assert code == 0, output
    outcome = project.outcome()
    assert (outcome.status, outcome.reason) == ("succeeded", "Evaluated"), output
    summary = EvaluationSummary.model_validate(outcome.summary)
    assert set(summary.metrics) == {"exactMatch", "loss", "size"}
    assert all(measured.error is None for measured in summary.metrics.values())
    run = json.loads(run_in(workspace, READ_RUNS))["key"]
    assert (run["status"], run["id"]) == ("FINISHED", summary.run_id)
    tag = run["tags"][TAG_EVALUATION_SUMMARY]
    assert EvaluationSummary.model_validate_json(tag) == summary
    assert Outcome.from_message(run["tags"][names.outcome_tag(1)]) == outcome

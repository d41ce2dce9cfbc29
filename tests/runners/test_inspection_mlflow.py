"""Inspections against a real MLflow server: registered models and the full report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import (
    adapter_files,
    files_plan,
    inspection_plan,
    model_files,
    write,
)
from kubetune.api.kinds.inspection import DatasetInspection, ModelInspection
from kubetune_runner.inspection import run
from kubetune_runner.mlflow.rest import MlflowApi

LOADER = """
import mlflow


class Adapter(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input


mlflow.models.set_model(Adapter())
"""


@pytest.fixture(scope="module")
def registry(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server with an adapter as a pyfunc model, and a base model as artifacts of a run."""
    import mlflow

    folder = tmp_path_factory.mktemp("models")
    adapter = write(folder / "adapter", adapter_files())
    base = write(folder / "base", model_files())
    write(folder, {"loader.py": LOADER})
    mlflow.set_tracking_uri(mlflow_server)
    client = mlflow.MlflowClient(mlflow_server)
    # set_experiment would stay with the process, and other runs could not be gone on with.
    with mlflow.start_run(experiment_id=client.create_experiment("models")) as active:
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(folder / "loader.py"),
            artifacts={"adapter": str(adapter)},
        )
        mlflow.log_artifacts(str(base), "base")
    client.create_registered_model("my adapter")
    client.create_model_version(
        "my adapter", logged.model_uri, active.info.run_id, model_id=logged.model_id
    )
    client.set_registered_model_alias("my adapter", "champion", "1")
    client.create_registered_model("base")
    client.create_model_version("base", f"runs:/{active.info.run_id}/base", active.info.run_id)
    yield mlflow_server
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def inspect(uri: str, registry: str, base: dict[str, Any] | None = None) -> Any:
    model = {"name": "m", "registryUri": uri} | ({"base": base} if base else {})
    tracking = {"uri": registry, "experiment": "kubetune"}
    return run(inspection_plan("inspectModel", model=model, tracking=tracking))


@pytest.mark.parametrize("uri", ["models:/my adapter/1", "models:/my adapter@champion"])
def test_registered_adapter_on_a_registered_base(uri: str, registry: str) -> None:
    outcome = inspect(uri, registry, {"name": "base", "registryUri": "models:/base/1"})
    found = ModelInspection.model_validate(outcome.summary)
    assert (found.type, found.revision, found.adapter_rank) == ("adapter", "1", 4)
    assert (found.hidden_size, found.base_model) == (16, "acme/base")


def test_results_that_nobody_registered(registry: str) -> None:
    """A logged model, and artifacts of a run, as a job's status names them."""
    import mlflow

    client = mlflow.MlflowClient(registry)
    version = client.get_model_version("my adapter", "1")
    base = f"runs:/{version.run_id}/base"
    # The REST API tells no model_id of a version.
    logged = str(version.source)
    found = ModelInspection.model_validate(
        inspect(logged, registry, {"name": "base", "registryUri": base}).summary
    )
    model_id = logged.removeprefix("models:/")
    assert (found.type, found.revision, found.hidden_size) == ("adapter", model_id, 16)
    whole = ModelInspection.model_validate(inspect(base, registry).summary)
    assert (whole.type, whole.revision) == ("base", f"{version.run_id}/base")
    gone = inspect("models:/m-0123", registry)
    assert (gone.reason, gone.retryable) == ("ResultUnreachable", True)


def test_registered_base(registry: str) -> None:
    found = ModelInspection.model_validate(inspect("models:/base/1", registry).summary)
    assert (found.type, found.revision, found.parameters) == ("base", "1", 1536)


def test_rows_that_trained_a_version_are_told_by_its_tags(registry: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(registry)
    before = [{"datasetDigest": "sha256:d0", "splitDigest": "sha256:s0", "by": "first"}]
    for key, value in {
        "kubetune.job": "second",
        "kubetune.datasetDigest": "sha256:d1",
        "kubetune.splitDigest": "sha256:s1",
        "kubetune.trainedOn": json.dumps(before),
    }.items():
        client.set_model_version_tag("base", "1", key, value)
    own = {"datasetDigest": "sha256:d1", "splitDigest": "sha256:s1", "by": "second"}
    outcome: Any = inspect("models:/base/1", registry)
    # Whoever may write there may have written them.
    told = [{**rows, "toldBy": "tags"} for rows in (own, *before)]
    assert outcome.summary["trainedOn"] == told
    client.set_model_version_tag("base", "1", "kubetune.trainedOn", "spoiled by somebody")
    outcome = inspect("models:/base/1", registry)
    assert outcome.summary["trainedOn"] == told[:1]


@pytest.mark.parametrize("uri", ["models:/base/9", "models:/base@none", "models:/nothing/1"])
def test_versions_that_do_not_exist(uri: str, registry: str) -> None:
    outcome = inspect(uri, registry)
    assert (outcome.reason, outcome.retryable) == ("RegistryNotFound", True)
    assert uri in outcome.message


def test_all_problems_are_in_the_report(mlflow_server: str, tmp_path: Path) -> None:
    rows = "".join(f'{{"prompt": "", "completion": "c{number}"}}\n' for number in range(50))
    (tmp_path / "rows.jsonl").write_text(rows)
    plan = inspection_plan(
        "inspectDataset",
        dataset=files_plan(tmp_path, "*").to_json(),
        tracking={"uri": mlflow_server, "experiment": "reports"},
    )
    found = DatasetInspection.model_validate(run(plan).summary)
    again = DatasetInspection.model_validate(run(plan).summary)
    assert found.report_uri == again.report_uri
    api = MlflowApi(mlflow_server)
    identity = api.find_run(api.experiment("reports"), "kubetune.run_key", "key")
    assert identity is not None
    assert found.report_uri == f"runs:/{identity[0]}/inspection.json"
    with api.open_artifact(identity[1], "inspection.json") as chunks:
        report = b"".join(chunks).decode()
    assert report.count('"row"') == 50 + 20  # all, and those of the summary

"""What is stored in MLflow is listed as a whole, and nothing changed of it goes unseen."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import adapter_files, inspection_plan, model_files, write
from kubetune.api.run.plan import FILE_LIST, ModelPlan
from kubetune.cli.verifying.findings import of_listed
from kubetune.cli.verifying.registry import Registry, Stored
from kubetune.tracking.rest import Credentials
from kubetune_runner.errors import RunError
from kubetune_runner.inspection import run
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow import packing
from kubetune_runner.model import loading


@dataclass
class Version:
    """Version 1 of a registered model, whose files are on the server."""

    server: str
    name: str
    root: str
    digest: str
    files: dict[str, str]

    def path(self, part: str) -> str:
        """The listed file whose path has a part."""
        (found,) = (name for name in self.files if part in name)
        return found

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Write to the artifact store past every rule, as whoever may write there can."""
        url = f"{self.server}/api/2.0/mlflow-artifacts/artifacts/{self.root}/{path}"
        sent = urllib.request.Request(url, body, method=method)
        with urllib.request.urlopen(sent) as answer:
            return answer.read()

    @property
    def model(self) -> ModelPlan:
        return ModelPlan(
            name="tuned",
            type="adapter",
            registry_uri=f"models:/{self.name}/1",
            files_digest=self.digest,
        )

    def inspected(self) -> Any:
        """The outcome of an inspection."""
        base = {"name": "base", "registryUri": f"models:/{self.name}-base/1"}
        plan = self.model.model_copy(update={"base": ModelPlan.model_validate(base)})
        tracking = {"uri": self.server, "experiment": "kubetune"}
        return run(inspection_plan("inspectModel", model=plan.to_json(), tracking=tracking))

    def stored(self) -> Stored:
        """As ``kubetune verify`` reads it."""

        async def read() -> Stored:
            registry = Registry(self.server, Credentials())
            try:
                version = await registry.version(self.name, 1)
                return await registry.stored(version, self.digest)
            finally:
                await registry.close()

        return asyncio.run(read())


@pytest.fixture
def version(mlflow_server: str, tmp_path: Path) -> Iterator[Version]:
    import mlflow

    client = mlflow_client.connect(mlflow_server)
    folder = write(tmp_path / "adapter", {**adapter_files(), "kubetune.json": b"{}"})
    base = write(tmp_path / "base", model_files())
    name = f"packed-{tmp_path.name}"
    made = client.create_run(client.create_experiment(name))
    stored = packing.store(client, made.info.run_id, folder, "model")
    client.log_artifacts(made.info.run_id, str(base), "base")
    run_id, model_id = made.info.run_id, stored.model_id
    for model, source, logged in (
        (name, f"models:/{model_id}", model_id),
        (f"{name}-base", f"runs:/{run_id}/base", None),
    ):
        client.create_registered_model(model)
        client.create_model_version(model, source, run_id, model_id=logged)
    place = client.get_logged_model(stored.model_id).artifact_location
    root = place.removeprefix("mlflow-artifacts:/").strip("/")
    yield Version(mlflow_server, name, root, stored.listed.digest, stored.listed.files)
    mlflow.set_tracking_uri(None)  # pyright: ignore[reportArgumentType]


def test_every_file_of_a_version_is_listed(version: Version) -> None:
    expected = {"MLmodel", "loader.py", "requirements.txt", "conda.yaml", "python_env.yaml"}
    assert expected < version.files.keys()
    code = {name for name in version.files if name.startswith("code/")}
    assert any(name.endswith("/model.py") for name in code)
    assert not any("__pycache__" in name for name in code)
    stored = version.stored()
    assert stored.list_digest == version.digest
    # Nothing else is there, neither right after nor once clients have had it.
    assert dict(stored.files) == version.files == dict(stored.listed)
    assert loading.fetch(version.model).name == "adapter"
    assert version.inspected().status == "succeeded"
    assert of_listed(stored.listed, version.stored().files) == []


CHANGES = {
    "how MLflow loads it": ("MLmodel", "was changed"),
    "the loader": ("loader.py", "was changed"),
    "the code that answers": ("/model.py", "was changed"),
    "what is installed": ("requirements.txt", "was changed"),
    "the environment": ("conda.yaml", "was changed"),
    "weights": ("adapter_model", "was changed"),
    "configuration": ("adapter_config", "was changed"),
}


@pytest.mark.parametrize(("part", "said"), CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_named(version: Version, part: str, said: str) -> None:
    path = version.path(part)
    version.request("PUT", path, version.request("GET", path) + b"\n")
    refused(version, path, said)
    if part == "adapter_config":
        # What an inspection reads, it compares as well.
        outcome = version.inspected()
        assert outcome.reason == "ModelFilesChanged"
        assert f"file {path} was changed" in outcome.message


def test_an_added_file_is_named(version: Version) -> None:
    """Compiled code runs in place of the source beside it."""
    folder = version.path("/model.py").rpartition("/")[0]
    path = f"{folder}/__pycache__/model.cpython-311.pyc"
    version.request("PUT", path, b"code")
    refused(version, path, "was added")
    assert f"file {path} was added" in version.inspected().message


def test_a_missing_file_is_named(version: Version) -> None:
    path = version.path("/model.py")
    version.request("DELETE", path)
    refused(version, path, "is missing")
    assert f"file {path} is missing" in version.inspected().message


def test_the_list_itself(version: Version) -> None:
    version.request("PUT", FILE_LIST, b"\xff")
    assert version.stored().list_digest != version.digest
    assert "the list of its files, was changed" in version.inspected().message
    version.request("DELETE", FILE_LIST)
    assert version.stored().list_digest is None
    assert "the list of its files, is missing" in version.inspected().message


def refused(version: Version, path: str, said: str) -> None:
    """Whoever loads it refuses, and a person is told."""
    with pytest.raises(RunError, match="since its training registered it") as caught:
        loading.fetch(version.model)
    assert caught.value.reason == "ModelFilesChanged"
    assert f"file {path} {said}" in caught.value.message
    stored = version.stored()
    (finding,) = of_listed(stored.listed, stored.files)
    assert (finding.what, finding.state) == (f"file {path}", "changed")

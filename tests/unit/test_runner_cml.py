"""What a run on CML takes from its environment, and how it asks an older tracking server."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune_runner import outcomes
from kubetune_runner.cml import project as cml
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow.client import ENV_REGISTRY_URI
from kubetune_runner.signals import Interrupted, StopSignal


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the code sets is gone after the test."""
    for name in (
        names.ENV_REQUIRED_VARIABLES,
        names.ENV_TOKEN_VARIABLES,
        names.ENV_MODEL_TOKEN,
        names.ENV_DATASET_TOKEN,
        names.ENV_PLAN_DATA,
        ENV_REGISTRY_URI,
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_tokens_come_from_project_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "one")
    monkeypatch.setenv("OTHER", "two")
    pairs = f"{names.ENV_MODEL_TOKEN}=HF_TOKEN, {names.ENV_DATASET_TOKEN}=OTHER"
    monkeypatch.setenv(names.ENV_TOKEN_VARIABLES, pairs)
    cml._take_variables()
    assert os.environ[names.ENV_MODEL_TOKEN] == "one"
    assert os.environ[names.ENV_DATASET_TOKEN] == "two"


def test_one_variable_that_two_things_need_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv(names.ENV_REQUIRED_VARIABLES, "HF_TOKEN")
    pairs = f"{names.ENV_MODEL_TOKEN}=HF_TOKEN,{names.ENV_DATASET_TOKEN}=HF_TOKEN"
    monkeypatch.setenv(names.ENV_TOKEN_VARIABLES, pairs)
    with pytest.raises(RunError, match="environment variable HF_TOKEN: set it under"):
        cml._take_variables()


@pytest.mark.parametrize("text", ["HF_TOKEN", "=HF_TOKEN", "KUBETUNE_MODEL_TOKEN="])
def test_tokens_that_name_nothing(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(names.ENV_TOKEN_VARIABLES, text)
    with pytest.raises(RunError, match="expected TOKEN=VARIABLE"):
        cml._take_variables()


@pytest.mark.parametrize(
    ("tracking", "preset", "expected"),
    [
        ("https://mlflow", "cml://localhost", "https://mlflow"),
        ("cml://localhost", "cml://localhost", "cml://localhost"),
        ("https://mlflow", "https://registry", "https://registry"),
        ("https://mlflow", None, None),
        (None, "cml://localhost", "cml://localhost"),
    ],
)
def test_the_registry_is_that_of_the_tracking_server(
    monkeypatch: pytest.MonkeyPatch, tracking: str | None, preset: str | None, expected: str | None
) -> None:
    if preset:
        monkeypatch.setenv(ENV_REGISTRY_URI, preset)
    cml._choose_registry({"tracking": {"uri": tracking}} if tracking else {})
    assert os.environ.get(ENV_REGISTRY_URI) == expected


def test_the_link_to_the_project_moves_with_it(tmp_path: Path) -> None:
    link = tmp_path / "project"
    for name in ("old", "new", "new"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        cml._link(link, folder)
        assert link.resolve() == folder
    assert {path.name for path in tmp_path.iterdir()} == {"project", "old", "new"}


def test_a_signal_handler_is_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopSignal()
    stop.install()
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    stop.release()
    signal.raise_signal(signal.SIGTERM)
    stop.restore()
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_are_left_alone_outside_of_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            stop = StopSignal()
            stop.install()
            stop.release()
            stop.restore()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not problems
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("error", "status", "reason", "retryable"),
    [
        (RunError("NoFiles", "none", retryable=True), "failed", "NoFiles", True),
        (Interrupted(), "interrupted", "Interrupted", True),
        (KeyboardInterrupt(), "interrupted", "Interrupted", True),
        (ModuleNotFoundError("No module named 'trl'"), "failed", "RunnerMissing", False),
        (SystemExit(0), "failed", "UnexpectedError", True),
        (ValueError(), "failed", "UnexpectedError", True),
        (ValueError("x" * 9000), "failed", "UnexpectedError", True),
    ],
)
def test_every_error_has_an_outcome(
    error: BaseException, status: str, reason: str, retryable: bool
) -> None:
    outcome = outcomes.from_error(error)
    assert (outcome.status, outcome.reason, outcome.retryable) == (status, reason, retryable)
    assert outcomes.message_of(outcome)


def test_the_way_out_of_a_missing_package_depends_on_the_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ModuleNotFoundError("No module named 'trl'")
    assert "runner image" in outcomes.from_error(error).message
    monkeypatch.setenv(names.ENV_PLAN_DATA, "a plan")
    assert "pip install 'kubetune[runner]'" in outcomes.from_error(error).message


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a store of files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient(tmp_path.as_uri())


def test_pages_are_read_to_the_end(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_client, "PAGE_RUNS", 2)
    experiment = mlflow_client.experiment_id(store, "e")
    assert mlflow_client.experiment_id(store, "e") == experiment
    for at in range(7):
        tags = {names.TAG_RUN_KEY: f"key-{at % 4}"}
        store.create_run(experiment, start_time=1000 - at, tags=tags)
    # Of two runs with one key the one that began first.
    found = mlflow_client._oldest(store, experiment, "key-1")
    assert found is not None
    assert found.info.start_time == 1000 - 5
    same = mlflow_client.find_run(store, experiment, "key-1")
    assert same is not None
    assert same.info.run_id == found.info.run_id
    assert mlflow_client.find_run(store, experiment, "key-9") is None
    assert mlflow_client._oldest(store, experiment, "key-9") is None


def test_calls_are_tried_again_where_that_may_help(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

    monkeypatch.setattr(mlflow_client, "PAUSES_SECONDS", (0.0, 0.0))
    problems: list[Exception] = []
    asked: list[int] = []

    def call() -> str:
        asked.append(1)
        if problems:
            raise problems.pop(0)
        return "done"

    problems[:] = [ConnectionResetError(), MlflowException("reset")]
    assert mlflow_client.retried(call) == "done"
    for final in (
        MlflowException("no such version", error_code=RESOURCE_DOES_NOT_EXIST),
        NotImplementedError(),
        ModuleNotFoundError(),
    ):
        problems[:], asked[:] = [final], []
        with pytest.raises(type(final)):
            mlflow_client.retried(call)
        assert len(asked) == 1
    problems[:] = [ConnectionResetError() for _ in range(3)]
    with pytest.raises(ConnectionResetError):
        mlflow_client.retried(call)

"""Uploads wait for a server that is away, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow.upload import ENV_PATIENCE, patiently


class Run:
    """A tracked run that is known at once."""

    def wait_run(self, seconds: float) -> str:
        return "run"

    def check(self) -> None:
        """Nothing is refused."""


RUN: Any = Run()


def wrapped(cause: Exception | None, **given: Any) -> Exception:
    """As MLflow wraps what happens below it."""
    from mlflow.exceptions import MlflowException

    try:
        raise MlflowException("API request failed", **given) from cause
    except MlflowException as error:
        return error


def cases() -> dict[str, tuple[Exception, bool]]:
    import requests
    import urllib3
    from mlflow.exceptions import RestException

    return {
        "connection": (requests.ConnectionError("refused"), True),
        "proxy's answer": (requests.HTTPError("502"), True),
        "cut off": (urllib3.exceptions.ProtocolError("cut"), True),
        "reset": (ConnectionResetError("reset"), True),
        "server's word": (RestException({"error_code": "INTERNAL_ERROR", "message": "m"}), True),
        "wrapped connection": (wrapped(requests.Timeout("slow")), True),
        "server's status": (wrapped(None), True),
        "plugin": (Exception("try again"), True),
        "half an answer": (ValueError("Metric 'loss' is malformed. No data found."), True),
        "missing file": (FileNotFoundError("model.safetensors"), False),
        "full disk": (OSError(28, "No space left on device"), False),
        "wrapped missing file": (wrapped(FileNotFoundError("adapter")), False),
        "mistake": (TypeError("unexpected keyword"), False),
        "refused argument": (wrapped(None, error_code=1000), False),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_which_errors_are_elsewhere(name: str) -> None:
    error, expected = cases()[name]
    assert mlflow_client.is_elsewhere(error) is expected


def test_a_missing_file_fails_at_once(tmp_path: Path) -> None:
    calls: list[str] = []

    def store(run_id: str) -> None:
        calls.append(run_id)
        (tmp_path / "gone").read_bytes()

    with pytest.raises(RunError) as caught:
        patiently(RUN, store, "the model can't be uploaded", "another attempt uploads it")
    assert (caught.value.reason, caught.value.retryable) == ("UploadFailed", True)
    assert "gone" in caught.value.message
    assert calls == ["run"]


def test_a_server_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_PATIENCE, "0")

    def store(run_id: str) -> None:
        raise ConnectionError("refused")

    with pytest.raises(RunError) as caught:
        patiently(RUN, store, "the model can't be uploaded", "another attempt uploads it")
    assert caught.value.reason == "TrackingUnavailable"

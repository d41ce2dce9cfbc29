"""The progress protocol: what is taken, what is refused, and what becomes of it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.plan import METRIC_ETA, METRIC_STEP, TAG_TOTAL_STEPS
from kubetune.api.run.redact import redactor
from kubetune.api.run.training_plan import HyperparametersPlan
from kubetune_runner.own_code.protocol import ENV_TOKEN_FILE, ENV_URL, Posted, ProgressServer, read
from kubetune_runner.own_code.watch import Watch
from kubetune_runner.stages import Stages


def post(address: str, token: str, body: bytes) -> int:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(address, data=body, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


MESSAGE = {
    "trainerStatus": {
        "lastUpdatedTime": "2026-01-01T00:00:00Z",
        "progressPercentage": 50,
        "estimatedRemainingSeconds": 12,
        "metrics": [{"name": "loss", "value": "0.5"}, {"name": "bad", "value": "nan"}],
    }
}


def test_the_server_takes_messages_with_its_token_alone(tmp_path: Path) -> None:
    got: list[Posted] = []
    server = ProgressServer(tmp_path, got.append)
    try:
        address = server.environment[ENV_URL]
        file = Path(server.environment[ENV_TOKEN_FILE])
        assert file.stat().st_mode & 0o077 == 0
        token, body = file.read_text(), json.dumps(MESSAGE).encode()
        assert post(address, token, body) == 200
        assert post(address, "guess", body) == 401
        assert post(address, token, b"{}") == 400
        assert post(address, token, b"\xff") == 400
        assert post(address, token, b"[" * 60000) == 400
        assert post(address, token, b" " * 70000) == 413
    finally:
        server.close()
    assert got == [Posted(50, 12, {"loss": 0.5})]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"trainerStatus": 1}',
        b'{"trainerStatus": {"metrics": {"loss": 1}}}',
        b'{"trainerStatus": {"metrics": [1]}}',
    ],
)
def test_what_is_no_message(body: bytes) -> None:
    with pytest.raises(ValueError):
        read(body)


class Reports:
    """A tracker that only remembers."""

    def __init__(self) -> None:
        self.stages = Stages(["training"])
        self.sent: list[tuple[dict[str, float], int]] = []
        self.shown: dict[str, float] = {}
        self.tagged: dict[str, str] = {}
        self.client = None
        self.run_id = "r"

    def metrics(self, metrics: Any, step: int, *, once: bool = False) -> None:
        self.sent.append((dict(metrics), step))

    def show(self, metrics: Any) -> None:
        self.shown |= metrics

    def tags(self, tags: Any) -> None:
        self.tagged |= tags


def numbers(**over: Any) -> HyperparametersPlan:
    given = {
        "epochs": 1.0, "learningRate": 1.0, "perDeviceBatchSize": 1, "maxLength": 8,
        "gradientAccumulationSteps": 1, "packing": False, "scheduler": "linear", "warmup": 0.0,
        "weightDecay": 0.0, "maxGradNorm": 1.0, "precision": "auto", "loggingSteps": 1, "seed": 1,
    }  # fmt: skip
    return HyperparametersPlan.model_validate(given | over)


def test_steps_and_metrics_of_transformers_become_progress() -> None:
    tracker: Any = Reports()
    watch = Watch(tracker, numbers())
    metrics = {"current_step": 3.0, "total_steps": 6.0, "current_epoch": 0.5, "loss (x)": 0.25}
    watch.receive(Posted(50, 8, metrics))
    step, values = watch.gauges()
    assert (step, values[METRIC_STEP]) == (3, 3)
    assert values[METRIC_ETA] == pytest.approx(8, abs=1)
    assert tracker.tagged == {TAG_TOTAL_STEPS: "6"}
    assert tracker.sent == [({"loss _x_": 0.25, "epoch": 0.5}, 3)]


def test_the_end_is_told_by_the_share() -> None:
    tracker: Any = Reports()
    watch = Watch(tracker, numbers())
    watch.receive(Posted(0, None, {"total_steps": 6.0}))
    watch.receive(Posted(100, 0, {"loss": 0.5}))
    assert watch.gauges()[0] == 6
    assert tracker.sent == [({"loss": 0.5}, 6)]


def test_a_share_alone_is_progress_too() -> None:
    tracker: Any = Reports()
    watch = Watch(tracker, numbers())
    watch.receive(Posted(percent=40.0))
    assert watch.gauges()[0] == 40
    assert tracker.tagged == {TAG_TOTAL_STEPS: "100"}
    told = tracker.stages.facts()
    assert (told["stage"], told["total"], told["unit"]) == ("training", 100, "steps")


def test_what_looks_like_a_credential_is_hidden() -> None:
    redact = redactor({"HF_TOKEN": "abcdef123", "MY_SECRET": "short", "PATH": "/bin", "N": "plain"})
    assert redact("token abcdef123 in /bin plain short") == "token *** in /bin plain short"
    assert redact("https://user:pass@host/x") == "https://***@host/x"
    assert redact(f"hf_{'a' * 30}") == "***"

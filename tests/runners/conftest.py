"""A tiny model, a real MLflow server and run plans, for all tests that train."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch comes in: the machine's cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import RunPlan
from kubetune.api.training.settings import merge
from kubetune_runner.sample.model import RECIPES, make_model
from kubetune_runner.sample.tickets import tickets

from tests.runners.evaluation_fixtures import make_evaluation, plain_process
from tests.runners.forking import Forks

__all__ = ["make_evaluation", "plain_process"]

START_SECONDS = 120


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with a chat template; it has seen ten batches of text."""
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, RECIPES["test"], lambda *_: None)
    return folder


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "kubetune_devcluster.mlflow_server"]
    command += ["--folder", str(folder), "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{address}/health"):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, "MLflow didn't start in time"
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


PlanFactory = Callable[..., RunPlan]


@pytest.fixture
def make_plan(tmp_path: Path, tiny_model: Path) -> PlanFactory:
    """Builds a plan over ticket rows; keywords are laid over its JSON form.

    ``rows`` and ``held_out`` replace the rows; without ``tracking`` nothing listens at the
    tracking server's address.
    """

    def build(
        rows: list[dict[str, Any]] | None = None,
        held_out: list[dict[str, Any]] | None = None,
        **over: Any,
    ) -> RunPlan:
        data = tmp_path / "data"
        data.mkdir(exist_ok=True)
        rows = tickets(64) if rows is None else rows
        held_out = tickets(8, held_out=True) if held_out is None else held_out
        (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if held_out:
            (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
        document = _document(str(data), str(tiny_model), str(tmp_path / "checkpoints"))
        document["run"]["runKey"] = f"key-{tmp_path.name}"
        document["run"]["reportKey"] = "what the run vouches with"
        return RunPlan.model_validate(merge(document, over))

    return build


def _document(data: str, model: str, checkpoints: str) -> dict[str, Any]:
    return {
        "run": {"installId": "i", "runKey": "", "namespace": "ns", "name": "job", "uid": "u"},
        "model": {"name": "tiny", "type": "base", "directory": model},
        "dataset": {
            "name": "tickets",
            "files": {"directory": data, "glob": "*.jsonl", "format": "jsonl"},
            "format": "promptCompletion",
            "columns": {},
            "splits": {},
        },
        "training": {
            "objective": "sft",
            "method": "lora",
            "lora": {
                "rank": 4,
                "alpha": 8,
                "dropout": 0.0,
                "targetModules": ["all-linear"],
                "bias": "none",
                "useRslora": False,
            },
            "hyperparameters": {
                "maxSteps": 8,
                "learningRate": 0.01,
                "perDeviceBatchSize": 4,
                "gradientAccumulationSteps": 1,
                "maxLength": 128,
                "packing": False,
                "scheduler": "linear",
                "warmup": 0.0,
                "weightDecay": 0.0,
                "maxGradNorm": 1.0,
                "precision": "auto",
                "loggingSteps": 1,
                "seed": 42,
            },
            "dataFraction": 1.0,
            "dataSeed": 42,
            "evaluation": {"maxRows": 4, "maxNewTokens": 8, "baseline": False},
            "checkpoint": {"everySteps": 4, "keep": 2, "directory": checkpoints},
        },
        "tracking": {"uri": "http://127.0.0.1:9", "experiment": "tests"},
        "lineageDigest": "sha256:0",
    }


class Runner:
    """``python -m kubetune_runner`` as a process of its own: a new one, or one of ``forks``."""

    def __init__(self, plan: RunPlan, folder: Path, forks: Forks | None, **added: str) -> None:
        self._termination = folder / "termination-log"
        self._termination.unlink(missing_ok=True)
        self._log = folder / "log"
        plan_file = folder / "plan.json"
        plan_file.write_text(json.dumps(plan.to_json()))
        environment = os.environ | {
            "KUBETUNE_PLAN": str(plan_file),
            "KUBETUNE_TERMINATION_LOG": str(self._termination),
            **added,
        }
        with self._log.open("ab") as log:
            self.process = (
                forks.start(environment, log)
                if forks
                else subprocess.Popen(
                    [sys.executable, "-m", "kubetune_runner"],
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
            )

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text()

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until the log holds a text."""
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def wait(self, seconds: float = 240) -> tuple[int, Outcome]:
        """Exit code and outcome."""
        code = self.process.wait(seconds)
        outcome = Outcome.from_message(self._termination.read_text())
        assert outcome is not None, self.log
        return code, outcome


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process that has imported what trainings need, made when the first test wants it."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture
def start_runner(tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    """Starts runners as new processes; what still runs at the end is killed."""
    yield from _starting(tmp_path, None)


@pytest.fixture
def fork_runner(tmp_path: Path, forks: Forks) -> Iterator[Callable[..., Runner]]:
    """Like ``start_runner``, for trainings without quantization whose start is not the subject."""
    yield from _starting(tmp_path, forks)


@pytest.fixture
def together(tmp_path: Path) -> Iterator[Callable[..., list[Runner]]]:
    """Starts the workers of a plan, each as a pod's first process; what still runs is killed."""
    started: list[Runner] = []

    def start(plan: RunPlan, **environment: str) -> list[Runner]:
        port = random.randrange(20000, 30000)
        place = {"KUBETUNE_RENDEZVOUS": f"localhost:{port}"} if plan.workers > 1 else {}
        runners: list[Runner] = []
        for worker in range(plan.workers):
            folder = tmp_path / f"started-{len(started)}"
            folder.mkdir()
            own = place | ({"KUBETUNE_WORKER": str(worker)} if place else {})
            runner = Runner(plan, folder, None, OMP_NUM_THREADS="1", **own, **environment)
            runners.append(runner)
            started.append(runner)
        return runners

    yield start
    for runner in started:
        if runner.process.poll() is None:
            runner.process.kill()
            runner.process.wait()


def _starting(folder: Path, forks: Forks | None) -> Iterator[Callable[..., Runner]]:
    started: list[Runner] = []

    def start(plan: RunPlan, **environment: str) -> Runner:
        started.append(Runner(plan, folder, forks, **environment))
        return started[-1]

    yield start
    for runner in started:
        if runner.process.poll() is None:
            runner.process.kill()
            runner.process.wait()

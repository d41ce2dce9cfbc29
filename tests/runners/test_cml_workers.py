"""Several workers in a CML project: launched by the run, watched, and blamed for its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import kubetune_devcluster
import psutil
import pytest
from kubetune_runner.sample.tickets import tickets

from tests.cluster.support import eventually
from tests.runners.cml_project import PACKAGES, Project, Started
from tests.runners.conftest import PlanFactory

WORKLOAD = Path(kubetune_devcluster.__file__).parent / "cml" / "workload"


CHECKPOINTS = "/kubetune/checkpoints/key"


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path) -> Project:
    """A project with the model and rows among its files."""
    project = Project(tmp_path / "project")
    shutil.copytree(tiny_model, project.folder / "model")
    rows = "".join(json.dumps(row) + "\n" for row in tickets(64))
    (project.folder / "data").mkdir()
    (project.folder / "data" / "train.jsonl").write_text(rows)
    return project


def begin(
    project: Project,
    make_plan: PlanFactory,
    workers: int = 2,
    processes: int = 1,
    **settings: Any,
) -> Started:
    """A run of several workers, as the operator starts it and the workspace surrounds it."""
    plan = make_plan(
        workers=workers,
        processes=processes,
        model={"directory": "/kubetune/project/model"},
        dataset={"files": {"directory": "/kubetune/project/data"}},
        training={
            "hyperparameters": {"perDeviceBatchSize": 2, **settings},
            "checkpoint": {"directory": CHECKPOINTS},
        },
    )
    passed = ("RUN_KEY", "ATTEMPT", "PLAN_DATA", "RUNNER_ARCHIVE", "RUNNER_SHA256", "SCRIPT")
    return project.start(
        plan.to_json(),
        packages=f"{WORKLOAD}{os.pathsep}{PACKAGES}",
        KUBETUNE_SCRIPT=project.script.relative_to(project.folder).as_posix(),
        KUBETUNE_WORKER_VARIABLES=",".join(f"KUBETUNE_{name}" for name in passed),
        KUBETUNE_WORKER_RESOURCES=json.dumps({"cpu": 1.0, "memory": 2.0, "nvidia_gpu": 0}),
        KUBETUNE_UPLOAD_PATIENCE_SECONDS="0",
        CDSW_IP_ADDRESS="127.0.0.1",
        CDSW_ENGINE_ID="master",
        CML_SIMULATOR_STORE=str(project.folder.parent),
    )


# tests/cml trains so with the operator in every run.
@pytest.mark.exhaustive
def test_two_workers_train_in_a_project(project: Project, make_plan: PlanFactory) -> None:
    code, printed = begin(project, make_plan).wait()
    assert code != 0
    # Nobody takes the result here; it was trained.
    assert project.outcome().reason == "TrackingUnavailable", printed
    assert "rank 1 trained along" in printed
    assert "rank 0 of 2: meeting at localhost" in printed


def test_two_processes_of_one_engine_train_and_a_killed_one_is_named(
    project: Project, make_plan: PlanFactory
) -> None:
    started = begin(project, make_plan, workers=1, processes=2, maxSteps=100000)
    folder = project.root() / CHECKPOINTS.lstrip("/")
    eventually(lambda: list(folder.glob("checkpoint-*/kubetune.json")), 240)
    os.kill(child_of(started.process.pid, "KUBETUNE_PROCESS"), signal.SIGKILL)
    code, printed = started.wait()
    outcome = project.outcome()
    assert code != 0
    assert (outcome.reason, outcome.retryable) == ("RunFailed", True), printed
    assert outcome.message.startswith("rank 1 of 2: The process ended with exit code 137"), outcome
    assert "rank 0 of 2: meeting at localhost" in printed


@pytest.mark.exhaustive
def test_two_engines_with_two_processes_each_train(
    project: Project, make_plan: PlanFactory
) -> None:
    code, printed = begin(project, make_plan, processes=2).wait()
    assert code != 0
    assert project.outcome().reason == "TrackingUnavailable", printed
    assert "rank 2 trained along" in printed
    assert "rank 0 of 4: meeting at localhost" in printed


def test_a_runtime_without_the_workers_api_says_so(
    project: Project, make_plan: PlanFactory
) -> None:
    plan = make_plan(workers=2, model={"directory": "/kubetune/project/model"})
    code, printed = project.run(plan.to_json())
    outcome = project.outcome()
    assert code != 0
    assert (outcome.reason, outcome.retryable) == ("WorkersUnavailable", False), printed
    assert "set workers to 1" in outcome.message


@pytest.mark.exhaustive
def test_a_worker_that_dies_ends_the_run(project: Project, make_plan: PlanFactory) -> None:
    started = begin(project, make_plan, maxSteps=100000)
    folder = project.root() / CHECKPOINTS.lstrip("/")
    eventually(lambda: list(folder.glob("checkpoint-*/kubetune.json")), 240)
    os.kill(child_of(started.process.pid, "KUBETUNE_WORKER"), signal.SIGKILL)
    code, printed = started.wait()
    outcome = project.outcome()
    assert code != 0
    assert (outcome.reason, outcome.retryable) == ("WorkerLost", True), printed
    assert outcome.message.startswith("worker 1 of 2: "), outcome


def child_of(master: int, variable: str) -> int:
    """The further worker, or process, by the variable that says which one it is."""
    (found,) = (
        child for child in psutil.Process(master).children() if child.environ().get(variable) == "1"
    )
    return found.pid

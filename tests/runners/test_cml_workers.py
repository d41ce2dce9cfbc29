"""Several workers in a CML project: launched by the run, watched, and blamed for its end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.support import eventually
from tests.runners.cml_project import PACKAGES, Project, Started
from tests.runners.conftest import PlanFactory

WORKLOAD = Path(__file__).parents[1] / "cml" / "workload"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def begin(project: Project, make_plan: PlanFactory, **settings: Any) -> Started:
    """A run of two workers, as the operator starts it and the workspace surrounds it."""
    script = project.script.relative_to(project.folder).as_posix()
    passed = ("RUN_KEY", "ATTEMPT", "PLAN_DATA", "RUNNER_ARCHIVE", "SCRIPT")
    numbers = {"perDeviceBatchSize": 2, **settings}
    training = {"hyperparameters": numbers, "evaluation": {"maxRows": 0}}
    return project.start(
        make_plan(workers=2, training=training).to_json(),
        packages=f"{WORKLOAD}{os.pathsep}{PACKAGES}",
        KUBETUNE_SCRIPT=script,
        KUBETUNE_WORKER_VARIABLES=",".join(f"KUBETUNE_{name}" for name in passed),
        KUBETUNE_WORKER_RESOURCES=json.dumps({"cpu": 1.0, "memory": 2.0, "nvidia_gpu": 0}),
        KUBETUNE_UPLOAD_PATIENCE_SECONDS="0",
        CDSW_IP_ADDRESS="127.0.0.1",
        CDSW_ENGINE_ID="master",
        CML_STAND_IN_STORE=str(project.folder.parent),
    )


def test_two_workers_train_in_a_project(project: Project, make_plan: PlanFactory) -> None:
    code, printed = begin(project, make_plan).wait()
    assert code != 0
    # Nobody takes the result here; it was trained.
    assert project.outcome().reason == "TrackingUnavailable", printed
    assert "worker 1 trained along" in printed
    assert "worker 0 of 2: meeting at 127.0.0.1" in printed


def test_a_worker_that_dies_ends_the_run(project: Project, make_plan: PlanFactory) -> None:
    started = begin(project, make_plan, maxSteps=100000)
    folder = Path(make_plan().training.checkpoint.directory)
    eventually(lambda: list(folder.glob("checkpoint-*/kubetune.json")), 240)
    os.kill(worker_of(started.process.pid), signal.SIGKILL)
    code, printed = started.wait()
    outcome = project.outcome()
    assert code != 0
    assert (outcome.reason, outcome.retryable) == ("WorkerLost", True), printed
    assert outcome.message.startswith("worker 1 of 2: "), outcome


def worker_of(master: int) -> int:
    """The process of the one further worker."""
    (worker,) = (
        child
        for child in psutil.Process(master).children()
        if child.environ().get("KUBETUNE_WORKER") == "1"
    )
    return worker.pid

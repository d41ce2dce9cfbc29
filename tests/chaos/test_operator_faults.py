"""The operator dies, or loses an answer, at every write that a job's life consists of.

Afterwards there is one plan, one run and one registered version, as if nothing had happened.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cluster import LocalCluster
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import Namespace, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run

pytestmark = pytest.mark.cluster

FAULTY = (sys.executable, str(Path(__file__).with_name("faulty_operator.py")))
# A job with a registered output writes about so often, from its stamp to its last status.
LEAST_WRITES, MOST_WRITES = 8, 20


@pytest.fixture
def faulty(operator: Operator) -> Iterator[Operator]:
    """The operator, to be started with faults; the healthy one is back afterwards."""
    yield operator
    operator.start()


def submit(jobs: Namespace, name: str) -> None:
    registry = {"name": f"{jobs.namespace}-{name}", "alias": "champion"}
    jobs.job(name, output={"registry": registry, "modelName": name}, reuse="Never")


def finish(jobs: Namespace, name: str) -> None:
    """Have the run end with a model in MLflow."""
    run_id, model_id = logged_run(jobs.cluster.mlflow_url, jobs, name)
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    jobs.end(name, outcome=Outcome(status="succeeded", reason="Trained", summary=summary))


def check(jobs: Namespace, name: str) -> None:
    """One of everything."""
    status = jobs.phase(name, "Succeeded")["status"]
    assert status["counts"] == {"total": 1, "failed": 0, "preempted": 0}
    assert [attempt["result"] for attempt in status["attempts"]] == ["Succeeded"]
    assert status["lineage"]["digest"]
    assert status["effective"]["hyperparameters"]["maxSteps"] == 1
    assert len(jobs.runs(name)) == 1
    assert len(jobs.children("ConfigMap", name)) == 1
    registered = f"{jobs.namespace}-{name}"
    client: Any = MlflowClient(jobs.cluster.mlflow_url)
    (version,) = client.search_model_versions(f"name = '{registered}'")
    assert client.get_model_version_by_alias(registered, "champion").version == version.version
    assert status["result"]["registered"] == {
        "name": registered,
        "version": int(version.version),
        "alias": "champion",
    }
    source = jobs.get("Model", name)["spec"]["source"]
    assert source == {"registry": {"name": registered, "version": int(version.version)}}


def test_killed_at_every_write(jobs: Namespace, faulty: Operator):
    """One operator after the other dies at its job's next write, until one has none left."""
    ended: set[str] = set()
    names: list[str] = []

    def over(name: str) -> bool:
        """Whether the job is complete; ends its run as soon as it is seen running."""
        phase = phase_of(jobs.get("FineTuneJob", name))
        if phase == "Running" and name not in ended:
            ended.add(name)
            finish(jobs, name)
        return phase == "Succeeded"

    for write in range(1, MOST_WRITES):
        name = f"mortal-{write}"
        names.append(name)
        submit(jobs, name)
        moment = "after" if write % 2 else "before"
        fault = {"FAULT_KIND": "kill", "FAULT_PHASE": moment}
        faulty.start(FAULTY, fault | {"FAULT_PATH": name, "FAULT_WRITE": str(write)})
        eventually(lambda name=name: over(name) or faulty.ended())
        if not faulty.ended():
            break
    assert LEAST_WRITES < len(names) < MOST_WRITES - 1, "each write is to have its fault"
    # The last one may still die: at the write that made its job complete.
    faulty.start()
    for name in names:
        jobs.until("FineTuneJob", name, lambda _, name=name: over(name))
        check(jobs, name)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_every_write_fails_once(
    cluster: LocalCluster, jobs: Namespace, faulty: Operator, moment: str
):
    """Job N loses its N-th write, or the answer to it; one operator bears them all."""
    prefix = f"lossy-{moment}"
    faulty.start(FAULTY, {"FAULT_KIND": "fail", "FAULT_PHASE": moment, "FAULT_PATH": prefix})
    names = [f"{prefix}-{write}" for write in range(1, LEAST_WRITES + 5)]
    for name in names:
        submit(jobs, name)
    for name in names:
        jobs.phase(name, "Running")
        finish(jobs, name)
    for name in names:
        check(jobs, name)

"""The API server's store as it was a while ago: nothing is run or registered a second time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubetune_devcluster.cluster import LocalCluster
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import Namespace
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cluster.test_operator_finished_runs import finished_run

pytestmark = pytest.mark.cluster


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster that may go back in time."""
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), {"node", "mlflow"})
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


def snapshot(cluster: LocalCluster, folder: Path) -> None:
    """Copy the store while it stands still: what a machine would find after a power cut."""
    found = {part.name: part for part in cluster.status().components}
    etcd = psutil.Process(found["etcd"].pid)
    etcd.suspend()
    try:
        shutil.copytree(cluster.home / "etcd", folder)
    finally:
        etcd.resume()


def go_back(cluster: LocalCluster, folder: Path) -> None:
    """Start the cluster with the copy."""
    cluster.down()
    shutil.rmtree(cluster.home / "etcd")
    shutil.copytree(folder, cluster.home / "etcd")
    cluster.up()


def test_what_happened_after_a_snapshot_happens_once(own: LocalCluster, tmp_path: Path) -> None:
    operator = Operator(own, tmp_path)
    operator.start()
    try:
        jobs = Namespace(own)
        jobs.inputs()
        for name in ("over", "going"):
            start(jobs, name)
        end(own, jobs, "over")
        snapshot(own, tmp_path / "etcd")
        end(own, jobs, "going")
        start(jobs, "late")
        end(own, jobs, "late")
        before = {name: outcome(jobs, name) for name in ("over", "going", "late")}
        operator.stop()
        go_back(own, tmp_path / "etcd")
        assert jobs.get("FineTuneJob", "going")["status"]["phase"] == "Running"
        assert jobs.find("FineTuneJob", "late") is None
        operator.start()
        jobs.phase("going", "Succeeded")
        # As from git: it is a new object, and what it asks for is there.
        submit(jobs, "late")
        jobs.phase("late", "Succeeded")
        after = {name: outcome(jobs, name) for name in before}
        assert after == before
        assert jobs.get("FineTuneJob", "late")["status"]["result"]["reused"] is True
        eventually(lambda: not active(jobs))
        versions = versions_of(own, jobs)
        assert sorted((each.name, str(each.version)) for each in versions) == sorted(
            (registered(jobs, name), "1") for name in before
        )
    finally:
        operator.stop()
        print(operator.log_since(0))


def registered(jobs: Namespace, name: str) -> str:
    return f"{jobs.namespace}-{name}"


def submit(jobs: Namespace, name: str) -> None:
    jobs.job(name, output={"registry": {"name": registered(jobs, name), "alias": "best"}})


def start(jobs: Namespace, name: str) -> None:
    submit(jobs, name)
    jobs.phase(name, "Running")


def end(cluster: LocalCluster, jobs: Namespace, name: str) -> None:
    finished_run(cluster.mlflow_url, jobs, name)
    jobs.end(name)
    jobs.phase(name, "Succeeded")


def outcome(jobs: Namespace, name: str) -> Any:
    """What must not differ: the registered version, and the model in MLflow."""
    result = jobs.get("FineTuneJob", name)["status"]["result"]
    return result["registered"], result["modelUri"]


def versions_of(cluster: LocalCluster, jobs: Namespace) -> list[Any]:
    client: Any = MlflowClient(cluster.mlflow_url)
    found = client.search_model_versions()
    return [each for each in found if each.name.startswith(jobs.namespace)]


def active(jobs: Namespace) -> list[Any]:
    """Jobs that have not ended."""
    found = jobs.request("GET", jobs.path("Job"))["items"]
    return [each for each in found if each["status"].get("active")]

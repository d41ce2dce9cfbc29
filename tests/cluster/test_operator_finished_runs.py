"""What MLflow knows to have finished isn't trained again, whatever became of its Job."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubetune import names
from kubetune.api.run.plan import TAG_MODEL_ID, TAG_PHASE
from kubetune_devcluster.cluster import LocalCluster
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import Namespace, annotations, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.relay import Relay
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run, vouched_tags

pytestmark = pytest.mark.cluster


@pytest.fixture
def relay(cluster: LocalCluster) -> Iterator[Relay]:
    relay = Relay(cluster.mlflow_url)
    yield relay
    relay.close()


def finished_run(uri: str, jobs: Namespace, name: str, *, vouched: bool = True) -> tuple[str, str]:
    """The job's run in MLflow as the runner leaves it after all went well; run and model."""
    run_id, model_id = logged_run(uri, jobs, name, eval_loss=0.5)
    client: Any = MlflowClient(uri)
    told = {TAG_MODEL_ID: model_id, TAG_PHASE: "succeeded"}
    for key, value in (vouched_tags(jobs, name, told) if vouched else told).items():
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id, "FINISHED")
    return run_id, model_id


def clean_up(jobs: Namespace, name: str) -> None:
    """Let the run end and remove its Job, as a clean-up of old Jobs does."""
    jobs.end(name)
    (run,) = jobs.runs(name)
    job = run["metadata"]["name"]
    jobs.until("Job", job, lambda item: item["status"].get("succeeded") == 1)
    jobs.delete("Job", job)
    eventually(lambda: jobs.runs(name) == [])


@pytest.mark.parametrize("registry", [False, True])
def test_a_finished_job_that_was_cleaned_up_unseen(
    cluster: LocalCluster, jobs: Namespace, operator: Operator, registry: bool
) -> None:
    name = "tidied-registered" if registry else "tidied"
    registered = {"name": f"{jobs.namespace}-{name}", "alias": "best"}
    jobs.job(name, backoffLimit=0, output={"registry": registered} if registry else {})
    jobs.phase(name, "Running")
    with operator.stopped():
        _, model_id = finished_run(cluster.mlflow_url, jobs, name)
        clean_up(jobs, name)
    body = jobs.phase(name, "Succeeded")
    assert [item["result"] for item in body["status"]["attempts"]] == ["Succeeded"]
    assert body["status"]["counts"] == {"total": 1, "failed": 0, "preempted": 0}
    assert body["status"]["result"]["modelUri"] == f"models:/{model_id}"
    assert body["status"]["result"].get("registered") == (
        registered | {"version": 1} if registry else None
    )
    assert jobs.runs(name) == []


def test_a_lost_run_is_not_ended_by_what_others_say_of_it(
    cluster: LocalCluster, jobs: Namespace, operator: Operator
) -> None:
    """Whoever may write to MLflow can tag a run as finished, with a model of their own."""
    name = "unseen-forged"
    registered = {"name": f"{jobs.namespace}-{name}", "alias": "best"}
    jobs.job(name, backoffLimit=2, output={"registry": registered})
    jobs.phase(name, "Running")
    with operator.stopped():
        finished_run(cluster.mlflow_url, jobs, name, vouched=False)
        clean_up(jobs, name)
    jobs.until("FineTuneJob", name, lambda o: o["status"]["counts"]["total"] == 2)
    assert "result" not in jobs.get("FineTuneJob", name)["status"]
    client: Any = MlflowClient(cluster.mlflow_url)
    assert client.search_model_versions(f"name = '{registered['name']}'") == []


def test_a_lost_run_waits_for_the_tracking_server(
    cluster: LocalCluster, jobs: Namespace, operator: Operator, relay: Relay
) -> None:
    jobs.create("ComputeTarget", "faint", jobs.target(relay.url))
    target = {"kind": "ComputeTarget", "name": "faint"}
    for name in ("faint-done", "faint-lost"):
        jobs.job(name, computeTargetRef=target, backoffLimit=3)
        jobs.phase(name, "Running")
    with operator.stopped():
        finished_run(cluster.mlflow_url, jobs, "faint-done")
        relay.mode = "refuse"
        clean_up(jobs, "faint-done")
        clean_up(jobs, "faint-lost")
    for name in ("faint-done", "faint-lost"):
        assert "another one starts" in jobs.waits("FineTuneJob", name, "TrackingUnreachable")
        assert jobs.runs(name) == []
    relay.mode = "forward"
    jobs.phase("faint-done", "Succeeded")
    jobs.end("faint-lost", attempt=2)
    body = jobs.phase("faint-lost", "Succeeded")
    assert [item["result"] for item in body["status"]["attempts"]] == ["Failed", "Succeeded"]
    assert jobs.runs("faint-done") == []


def test_a_job_of_a_backup_whose_run_has_finished(
    cluster: LocalCluster, jobs: Namespace, operator: Operator
) -> None:
    jobs.job("restored", deletionPolicy="Orphan")
    jobs.phase("restored", "Running")
    key = jobs.run_key("restored")
    finished_run(cluster.mlflow_url, jobs, "restored")
    saved = jobs.get("FineTuneJob", "restored")
    jobs.end("restored")
    jobs.phase("restored", "Succeeded")
    jobs.delete("FineTuneJob", "restored")
    eventually(lambda: jobs.find("FineTuneJob", "restored") is None)
    for run in jobs.runs("restored"):
        jobs.delete("Job", run["metadata"]["name"])
    eventually(lambda: jobs.runs("restored") == [])
    # Tools for backups keep annotations, but no status.
    kept = {names.RUN_KEY: annotations(saved)[names.RUN_KEY]}
    jobs.create("FineTuneJob", "restored", saved["spec"], annotations=kept)
    body = jobs.phase("restored", "Succeeded")
    assert body["status"]["runKey"] == key
    assert jobs.runs("restored") == []


def test_a_resumed_job_whose_run_finished_while_it_was_stopped(
    cluster: LocalCluster, jobs: Namespace
) -> None:
    jobs.job("in-time")
    jobs.phase("in-time", "Running")
    finished_run(cluster.mlflow_url, jobs, "in-time")
    jobs.patch("FineTuneJob", "in-time", {"spec": {"suspend": True}})
    jobs.until("FineTuneJob", "in-time", lambda o: phase_of(o) == "Suspended")
    jobs.patch("FineTuneJob", "in-time", {"spec": {"suspend": False}})
    jobs.phase("in-time", "Succeeded")
    assert jobs.runs("in-time") == []

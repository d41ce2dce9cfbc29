"""What follows attempts that ran out of memory, with a real operator that is killed in between."""

from typing import Any

import pytest
from kubetune.api.run.outcome import ExitCode, Outcome
from kubetune.api.run.plan import ENV_BATCH
from kubetune_devcluster.cluster import LocalCluster
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import JsonObject, Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run

pytestmark = pytest.mark.cluster

RAN_OUT = Outcome(status="failed", reason="OutOfMemory", message="too small", retryable=True)
FOUR = {"maxSteps": 1, "perDeviceBatchSize": 4}


def batches(space: Namespace, job: str) -> list[str | None]:
    """What each attempt's containers are told of their batch, by the number of the attempt."""
    found: dict[int, str | None] = {}
    for run in space.runs(job):
        container = run["spec"]["template"]["spec"]["containers"][0]
        told = {item["name"]: item.get("value") for item in container["env"]}
        found[int(run["metadata"]["name"].rpartition("-")[2])] = told.get(ENV_BATCH)
    return [found[number] for number in sorted(found)]


def trained_with(body: JsonObject) -> list[tuple[str, int | None, int | None]]:
    """Result and batch of each attempt, as the status has them."""
    return [
        (item["result"], item.get("perDeviceBatchSize"), item.get("gradientAccumulationSteps"))
        for item in body["status"].get("attempts", ())
    ]


def test_each_attempt_has_half_of_the_batch_and_the_version_says_so(
    cluster: LocalCluster, jobs: Namespace, operator: Operator
) -> None:
    name = "halved"
    registered = f"{jobs.namespace}-{name}"
    jobs.job(
        name,
        backoffLimit=0,
        onOutOfMemory="HalveBatch",
        hyperparameters=FOUR,
        output={"registry": {"name": registered}},
    )
    jobs.phase(name, "Running")
    declared = jobs.get("FineTuneJob", name)["status"]
    with operator.stopped():
        jobs.end(name, code=ExitCode.FAILED, outcome=RAN_OUT)
        (run,) = jobs.runs(name)
        jobs.until("Job", run["metadata"]["name"], lambda job: job["status"].get("failed") == 1)
    body = jobs.until("FineTuneJob", name, lambda o: trained_with(o)[1:] == [("Running", 2, 2)])
    with operator.stopped():
        jobs.end(name, attempt=2, code=ExitCode.FAILED, outcome=RAN_OUT)
        # Nobody saw how it ended, but everybody can read what it had.
    body = jobs.until("FineTuneJob", name, lambda o: trained_with(o)[2:] == [("Running", 1, 4)])
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, name, eval_loss=0.5)
    summary: dict[str, Any] = {"metrics": {"eval_loss": 0.5}, "runId": run_id, "modelId": model_id}
    trained = Outcome(status="succeeded", reason="Trained", summary=summary)
    jobs.end(name, attempt=3, outcome=trained)
    body = jobs.phase(name, "Succeeded")
    assert trained_with(body) == [
        ("Failed", None, None),
        ("Failed", 2, 2),
        ("Succeeded", 1, 4),
    ]
    assert batches(jobs, name) == [None, "2x2", "1x4"]
    # One plan for all of them, and the job is what it was.
    (plan,) = jobs.children("ConfigMap", name)
    assert '"perDeviceBatchSize": 4' in plan["data"]["plan.json"]
    status = body["status"]
    assert status["effective"] == declared["effective"]
    own = {"perDeviceBatchSize": 1, "gradientAccumulationSteps": 4}
    assert status["lineage"] == declared["lineage"] | own
    client: Any = MlflowClient(cluster.mlflow_url)
    (version,) = client.search_model_versions(f"name = '{registered}'")
    assert version.tags["kubetune.perDeviceBatchSize"] == "1"
    assert version.tags["kubetune.gradientAccumulationSteps"] == "4"
    assert version.tags["kubetune.lineage_digest"] == declared["lineage"]["digest"]
    # The same job again takes it.
    jobs.job(
        "again",
        onOutOfMemory="HalveBatch",
        hyperparameters=FOUR,
        output={"registry": {"name": registered}},
    )
    again = jobs.phase("again", "Succeeded")["status"]
    assert again["result"]["reused"] is True
    assert again["result"]["registered"]["version"] == 1


def test_after_the_smallest_batch_the_job_ends(jobs: Namespace) -> None:
    two = {"maxSteps": 1, "perDeviceBatchSize": 2}
    jobs.job("smallest", onOutOfMemory="HalveBatch", hyperparameters=two, backoffLimit=5)
    jobs.end("smallest", code=ExitCode.FAILED, outcome=RAN_OUT)
    waiting = jobs.until(
        "FineTuneJob", "smallest", lambda o: phase_of(o) == "Queued" and trained_with(o)[:1]
    )
    assert condition(waiting, "Ready")[1] in ("Retrying", "Queued", "PodPending")
    jobs.end("smallest", attempt=2, code=ExitCode.FAILED, outcome=RAN_OUT)
    body = jobs.phase("smallest", "Failed")
    assert trained_with(body) == [("Failed", None, None), ("Failed", 1, 2)]
    status, reason, message = condition(body, "Failed")
    assert (status, reason) == ("True", "OutOfMemory")
    assert "the smallest batch that can train" in message
    assert "resources.memory" in message, "what else helps"


def test_fail_ends_the_job_with_the_first(jobs: Namespace) -> None:
    jobs.job("at-once", onOutOfMemory="Fail", backoffLimit=5)
    jobs.end("at-once", code=ExitCode.FAILED, outcome=RAN_OUT)
    body = jobs.phase("at-once", "Failed")
    assert condition(body, "Failed")[1] == "OutOfMemory"
    assert len(jobs.runs("at-once")) == 1


def test_one_of_several_workers_is_enough(jobs: Namespace) -> None:
    jobs.job("pair", workers=2, onOutOfMemory="HalveBatch", hyperparameters=FOUR, backoffLimit=0)
    jobs.phase("pair", "Running")
    key = jobs.run_key("pair")
    lost = Outcome(status="failed", reason="WorkerLost", message="a peer is gone", retryable=True)
    jobs.end_run(key, code=ExitCode.FAILED, outcome=lost, worker=0)
    jobs.end_run(key, code=ExitCode.FAILED, outcome=RAN_OUT, worker=1)
    jobs.until("FineTuneJob", "pair", lambda o: trained_with(o)[1:] == [("Running", 2, 2)])
    (again,) = (run for run in jobs.runs("pair") if run["spec"]["completions"] == 2 and told(run))
    assert told(again) == "2x2"
    jobs.end("pair", attempt=2)
    body = jobs.phase("pair", "Succeeded")
    assert body["status"]["attempts"][0]["reason"] == "OutOfMemory"
    assert "worker 1 of 2" in body["status"]["attempts"][0]["message"]


def told(run: JsonObject) -> str | None:
    """The batch of a Job's pods."""
    entries = run["spec"]["template"]["spec"]["containers"][0]["env"]
    return next((item["value"] for item in entries if item["name"] == ENV_BATCH), None)


def test_a_profile_asks_for_all_its_jobs(jobs: Namespace) -> None:
    jobs.create("TuningProfile", "house", {"onOutOfMemory": "HalveBatch"})
    house = {"profileRef": {"kind": "TuningProfile", "name": "house"}}
    jobs.job("housed", hyperparameters=FOUR, **house)
    one = {"maxSteps": 1, "perDeviceBatchSize": 1}
    jobs.job("single", hyperparameters=one, **house)
    jobs.phase("single", "Running")
    acts = {
        name: jobs.phase(name, "Running")["status"]["effective"]["onOutOfMemory"]
        for name in ("housed", "single")
    }
    assert acts == {"housed": "HalveBatch", "single": "Retry"}
    jobs.job("idle", hyperparameters=one, onOutOfMemory="HalveBatch")
    assert "is the smallest already" in jobs.stalls("FineTuneJob", "idle", "InputsRefused")
    jobs.end("housed", code=ExitCode.FAILED, outcome=RAN_OUT)
    eventually(lambda: batches(jobs, "housed") == [None, "2x2"])

"""Several workers on a real cluster: one that fails ends the attempt, all of them start anew."""

import os
import signal

import psutil
import pytest
from kubetune import names
from kubetune.api.outcome import ExitCode, Outcome

from tests.cluster.support import eventually
from tests.cluster.test_operator_training import MANIFESTS, sample
from tests.cluster.workspace import Workspace, condition

pytestmark = pytest.mark.cluster

REFUSED = Outcome(status="failed", reason="DatasetChanged", message="other rows than before")


def test_the_worker_that_failed_is_named_and_the_others_are_stopped(jobs: Workspace):
    jobs.job("pair", workers=2, backoffLimit=0)
    jobs.phase("pair", "Running")
    (run,) = jobs.runs("pair")
    key = jobs.run_key("pair")
    service = jobs.get("Service", names.service_name(key))
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["ownerReferences"][0]["name"] == "pair"
    jobs.end_run(key, code=ExitCode.REFUSED, outcome=REFUSED, worker=1)
    body = jobs.phase("pair", "Failed")
    said = "worker 1 of 2: other rows than before"
    assert condition(body, "Failed") == ("True", "DatasetChanged", said)
    assert [attempt["message"] for attempt in body["status"]["attempts"]] == [said]
    ended = jobs.get("Job", run["metadata"]["name"])["status"]
    assert ended.get("active", 0) == 0
    assert body["status"]["counts"] == {"total": 1, "failed": 1, "preempted": 0}


def test_other_workers_start_over_while_suspended(jobs: Workspace):
    jobs.job("grows", workers=2)
    jobs.phase("grows", "Running")
    jobs.patch("FineTuneJob", "grows", {"spec": {"suspend": True}})
    before = jobs.phase("grows", "Suspended")["status"]["lineage"]
    jobs.patch("FineTuneJob", "grows", {"spec": {"workers": 3}})
    jobs.patch("FineTuneJob", "grows", {"spec": {"suspend": False}})
    jobs.end("grows", attempt=2)
    after = jobs.phase("grows", "Succeeded")["status"]
    assert (before["worldSize"], after["lineage"]["worldSize"]) == (2, 3)
    assert before["digest"] != after["lineage"]["digest"]
    assert [run["spec"]["completions"] for run in jobs.runs("grows")] == [3]


@pytest.mark.training
def test_two_workers_train_although_one_crashes(space: Workspace):
    sample(space)
    changes = {
        "STEPS": "100",
        "loggingSteps: 5": "loggingSteps: 1, perDeviceBatchSize: 2",
        "backoffLimit: 0": "workers: 2\n  resources: {cpu: 500m, memory: 1Gi}\n"
        "  checkpoint: {everySteps: 20, claimName: files}",
    }
    manifests = MANIFESTS
    for old, new in changes.items():
        manifests = manifests.replace(old, new)
    space.cluster.kubectl("apply", "-n", space.namespace, "-f", "-", input=manifests)
    key = space.run_key("router")
    checkpoint = space.files / key / "checkpoint-20" / "kubetune.json"
    eventually(checkpoint.exists, 240)
    os.kill(process_of(key, worker=1), signal.SIGKILL)
    status = space.phase("router", "Succeeded", 240)["status"]
    first, second = status["attempts"]
    assert (first["result"], second["result"]) == ("Failed", "Succeeded")
    assert first["message"].startswith("worker 1 of 2: "), first
    assert status["counts"] == {"total": 2, "failed": 1, "preempted": 0}
    assert status["lineage"]["worldSize"] == 2
    assert status["result"]["registered"]["alias"] == "champion"
    assert status["estimate"]["rowsPerStep"] == 4


def process_of(run_key: str, worker: int) -> int:
    """The process of a worker."""
    for process in psutil.process_iter():
        try:
            found = process.environ()
        except psutil.Error:
            continue
        if (found.get("KUBETUNE_RUN_KEY"), found.get("KUBETUNE_WORKER")) == (run_key, str(worker)):
            return process.pid
    raise AssertionError(f"no process of worker {worker}")

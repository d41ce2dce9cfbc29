"""Several workers on a real cluster: one that fails ends the attempt, all of them start anew."""

import json
import os
import signal

import pytest
from kubetune import names
from kubetune.api.run.outcome import ExitCode, Outcome

from tests.cluster.namespace import JsonObject, Namespace, annotations, condition
from tests.cluster.support import eventually, process_of
from tests.cluster.test_operator_training import MANIFESTS
from tests.samples import put_sample

pytestmark = pytest.mark.cluster

REFUSED = Outcome(status="failed", reason="DatasetChanged", message="other rows than before")


def test_the_worker_that_failed_is_named_and_the_others_are_stopped(jobs: Namespace):
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


def test_other_workers_start_over_while_suspended(jobs: Namespace):
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


def test_other_processes_start_over_while_suspended(jobs: Namespace):
    jobs.job("deepens", resources={"processes": 2, "cpu": "2"})
    jobs.phase("deepens", "Running")
    jobs.patch("FineTuneJob", "deepens", {"spec": {"suspend": True}})
    before = jobs.phase("deepens", "Suspended")["status"]
    shape = {"workers": 2, "resources": {"processes": 2, "cpu": "100m"}}
    jobs.patch("FineTuneJob", "deepens", {"spec": shape | {"suspend": False}})
    said = "resources.processes is 2 and resources.cpu is 100m, and each process needs a CPU"
    jobs.until("FineTuneJob", "deepens", lambda body: said in inputs_ready(body))
    jobs.patch("FineTuneJob", "deepens", {"spec": {"suspend": True}})
    jobs.patch("FineTuneJob", "deepens", {"spec": {"resources": {"cpu": "2"}}})
    jobs.patch("FineTuneJob", "deepens", {"spec": {"suspend": False}})
    jobs.end("deepens", attempt=2)
    after = jobs.phase("deepens", "Succeeded")["status"]
    sizes = before["lineage"]["worldSize"], after["lineage"]["worldSize"]
    assert sizes == (2, 4)
    assert (after["effective"]["workers"], after["estimate"]["rowsPerStep"]) == (2, 32)
    (run,) = jobs.runs("deepens")
    assert run["spec"]["completions"] == 2
    (volume,) = [v for v in run["spec"]["template"]["spec"]["volumes"] if v["name"] == "plan"]
    plan = json.loads(jobs.get("ConfigMap", volume["configMap"]["name"])["data"]["plan.json"])
    assert (plan["workers"], plan["processes"]) == (2, 2)


def test_more_gpus_than_a_node_has_are_said(jobs: Namespace):
    jobs.job("greedy", resources={"gpu": 8})

    def says(body: JsonObject) -> bool:
        return "Insufficient nvidia.com/gpu" in json.dumps(body["status"]["conditions"])

    body = jobs.until("FineTuneJob", "greedy", lambda body: "status" in body and says(body))
    reasons = {condition["reason"] for condition in body["status"]["conditions"]}
    assert "Unschedulable" in reasons
    (run,) = jobs.runs("greedy")
    (container,) = run["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_an_evicted_worker_costs_no_retry(jobs: Namespace):
    jobs.job("moved", workers=2, backoffLimit=0)
    jobs.phase("moved", "Running")
    pod = next(pod for pod in jobs.objects("Pod") if is_worker(pod, "moved", 1))
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    jobs.request("POST", jobs.path("Pod", name) + "/eviction", eviction)
    jobs.end("moved", attempt=2)
    status = jobs.phase("moved", "Succeeded")["status"]
    assert [attempt["result"] for attempt in status["attempts"]] == ["Preempted", "Succeeded"]
    assert status["counts"] == {"total": 2, "failed": 0, "preempted": 1}


def test_orphaned_workers_keep_their_names(jobs: Namespace):
    jobs.job("cut-loose", workers=2, deletionPolicy="Orphan")
    jobs.phase("cut-loose", "Running")
    key = jobs.run_key("cut-loose")
    jobs.delete("FineTuneJob", "cut-loose")
    eventually(lambda: jobs.find("FineTuneJob", "cut-loose") is None)
    assert "ownerReferences" not in jobs.get("Service", names.service_name(key))["metadata"]
    jobs.end_run(key)
    (run,) = jobs.runs("cut-loose")
    jobs.until("Job", run["metadata"]["name"], lambda job: job["status"].get("succeeded") == 2)


# The same happens in a workspace (tests/cml) and, without a crash, on a real node in every run.
@pytest.mark.exhaustive
@pytest.mark.training
def test_two_workers_train_although_one_crashes(space: Namespace):
    put_sample(space.files, 200)
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


@pytest.mark.exhaustive
@pytest.mark.training
def test_four_processes_of_two_workers_train_although_one_crashes(space: Namespace):
    put_sample(space.files, 200)
    changes = {
        "STEPS": "60",
        "loggingSteps: 5": "loggingSteps: 1, perDeviceBatchSize: 1",
        "backoffLimit: 0": "workers: 2\n"
        "  resources: {cpu: '2', processes: 2, memory: 2Gi}\n"
        "  checkpoint: {everySteps: 20, claimName: files}",
    }
    manifests = MANIFESTS
    for old, new in changes.items():
        manifests = manifests.replace(old, new)
    space.cluster.kubectl("apply", "-n", space.namespace, "-f", "-", input=manifests)
    key = space.run_key("router")
    checkpoint = space.files / key / "checkpoint-20" / "kubetune.json"
    eventually(checkpoint.exists, 400)
    os.kill(process_of(key, worker=1, number=1), signal.SIGKILL)
    status = space.phase("router", "Succeeded", 400)["status"]
    first, second = status["attempts"]
    assert (first["result"], second["result"]) == ("Failed", "Succeeded")
    assert first["message"].startswith("worker 1 of 2: rank 3 of 4: "), first
    assert first["exitCode"] == 137
    assert status["lineage"]["worldSize"] == 4
    assert status["estimate"]["rowsPerStep"] == 4
    assert status["result"]["registered"]["alias"] == "champion"


def inputs_ready(body: JsonObject) -> str:
    """The message of InputsReady."""
    found = [c for c in body["status"]["conditions"] if c["type"] == "InputsReady"]
    return found[0]["message"] if found else ""


def is_worker(pod: JsonObject, job: str, number: int) -> bool:
    """Whether a pod is this worker of a FineTuneJob."""
    marks = annotations(pod)
    index = marks.get("batch.kubernetes.io/job-completion-index")
    return (marks.get(names.OWNER_NAME), index) == (job, str(number))

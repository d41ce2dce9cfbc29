"""What is broken or away never stops anything else, and is is caught up with when it is back."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune.names import FINALIZER
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.objects import packaged

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.relay import Relay
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run

pytestmark = pytest.mark.cluster

DATASETS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/datasets.kubetune.io"


@pytest.fixture
def relay(cluster: LocalCluster) -> Iterator[Relay]:
    relay = Relay(cluster.mlflow_url)
    yield relay
    relay.close()


def through(jobs: Namespace, relay: Relay, name: str) -> dict[str, Any]:
    """A target whose MLflow is behind the relay, as a job names it."""
    jobs.create("ComputeTarget", name, jobs.target(relay.url))
    return {"computeTargetRef": {"kind": "ComputeTarget", "name": name}}


def test_mlflow_away_while_a_job_trains_and_registers(
    cluster: LocalCluster, jobs: Namespace, relay: Relay
):
    target = through(jobs, relay, "shaky")
    registry = {"name": f"{jobs.namespace}-shaky", "alias": "champion"}
    jobs.job("shaky", output={"registry": registry}, **target)
    jobs.phase("shaky", "Running")
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, "shaky")
    relay.mode = "refuse"
    body = jobs.until(
        "FineTuneJob", "shaky", lambda o: condition(o, "TrackingAvailable")[0] == "False"
    )
    assert phase_of(body) == "Running", "an outage is no failure"
    assert condition(body, "TrackingAvailable")[1] == "TrackingUnreachable"
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    jobs.end("shaky", outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    jobs.phase("shaky", "Registering")
    jobs.replace("FineTuneJob", "shaky")
    jobs.until("FineTuneJob", "shaky", lambda o: FINALIZER in o["metadata"].get("finalizers", ()))
    relay.mode = "forward"
    body = jobs.phase("shaky", "Succeeded")
    assert body["status"]["result"]["registered"] == registry | {"version": 1}
    assert condition(body, "Registered")[0] == "True"
    assert condition(body, "TrackingAvailable") == ("", "", "")


def test_an_mlflow_that_never_answers_holds_up_nobody(jobs: Namespace, relay: Relay):
    relay.mode = "hang"
    target = through(jobs, relay, "silent")
    names = [f"behind-{at}" for at in range(20)]
    for name in names:
        jobs.job(name, **target)
    jobs.waits("FineTuneJob", names[0], "TargetNotReady")
    jobs.job("ahead")
    jobs.phase("ahead", "Running", seconds=10)
    jobs.end("ahead")
    jobs.phase("ahead", "Succeeded", seconds=10)
    assert "silent" in jobs.waits("FineTuneJob", names[-1], "TargetNotReady")
    relay.mode = "forward"
    jobs.ready("ComputeTarget", "silent")
    for name in names:
        jobs.end(name)
    for name in names:
        jobs.phase(name, "Succeeded")


def test_a_spec_of_another_version_stalls_alone(jobs: Namespace):
    definition = jobs.request("GET", DATASETS)
    loose = copy.deepcopy(definition)
    schema = loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    schema["spec"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    set_spec(jobs, loose)
    try:
        eventually(lambda: jobs.created("Dataset", "foreign", {"source": "elsewhere"}))
        # While the definition is loose: a tight one would refuse the status beside such a spec.
        message = jobs.stalls("Dataset", "foreign", "InvalidSpec")
    finally:
        set_spec(jobs, definition)
    assert "source" in message
    jobs.job("unmoved")
    jobs.end("unmoved")
    jobs.phase("unmoved", "Succeeded")
    jobs.job("dependent", datasetRef={"name": "foreign"})
    assert "foreign" in jobs.waits("FineTuneJob", "dependent", "DatasetNotReady")


def set_spec(jobs: Namespace, definition: dict[str, Any]) -> None:
    """Replace the spec of a CRD."""
    jobs.request("PATCH", DATASETS, {"spec": {"versions": definition["spec"]["versions"]}})


def test_a_status_that_somebody_spoiled(jobs: Namespace, operator: Operator):
    """Whatever another client writes there, the operator recovers or leaves it at this object."""
    with operator.stopped():
        jobs.job("spoiled")
        jobs.patch(
            "FineTuneJob",
            "spoiled",
            {
                "status": {
                    "phase": "Running",
                    "attempts": [{"number": 7, "job": "none", "result": "Running"}],
                    "counts": {"total": 7, "failed": 0, "preempted": 0},
                    "conditions": [],
                }
            },
            "status",
        )
        jobs.job("clean")
    jobs.end("clean")
    jobs.phase("clean", "Succeeded")
    jobs.end("spoiled", attempt=8)
    jobs.phase("spoiled", "Succeeded")


def test_a_missing_crd_stops_no_other_kind(
    cluster: LocalCluster, jobs: Namespace, operator: Operator
):
    name = "clustertuningprofiles.kubetune.io"
    folder = packaged("crds", "crds")
    operator.stop()
    cluster.kubectl("delete", "crd", name)
    try:
        operator.start()
        jobs.job("without")
        jobs.end("without")
        jobs.phase("without", "Succeeded")
    finally:
        file = str(folder / "kubetune.io_clustertuningprofiles.yaml")
        cluster.kubectl("apply", "--server-side", "--field-manager=kubetune-local", "-f", file)
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}")
    profile = {"kind": "ClusterTuningProfile", "name": jobs.namespace}
    jobs.job("with", profileRef=profile)
    jobs.waits("FineTuneJob", "with", "TuningProfileMissing")
    eventually(lambda: jobs.created("ClusterTuningProfile", jobs.namespace, {"backoffLimit": 0}))
    try:
        jobs.end("with")
        body = jobs.phase("with", "Succeeded")
        assert body["status"]["effective"]["backoffLimit"] == 0
    finally:
        jobs.delete("ClusterTuningProfile", jobs.namespace)


def test_foreign_objects_with_our_labels_are_left_alone(jobs: Namespace):
    """Anybody may label a Job as ours; that makes it no child of an object."""
    labels = {"kubetune.io/run-key": "x", "kubetune.io/owner-kind": "ConfigMap"}
    jobs.create(
        "Job",
        "stranger",
        {
            "suspend": True,
            "template": {
                "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}
            },
        },
        labels=labels,
        annotations={"kubetune.io/owner-name": "kube-root-ca.crt"},
    )
    jobs.job("undisturbed")
    jobs.end("undisturbed")
    jobs.phase("undisturbed", "Succeeded")
    assert jobs.find("Job", "stranger")

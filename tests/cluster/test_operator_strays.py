"""Pods that a deletion has left without a Job, and runs that are to outlive their object."""

from typing import Any

import pytest
from kubetune import names

from tests.cluster.namespace import Namespace, annotations, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually, frozen

pytestmark = pytest.mark.cluster


def live_pods(jobs: Namespace, name: str) -> list[dict[str, Any]]:
    return [
        pod
        for pod in jobs.objects("Pod")
        if annotations(pod).get(names.OWNER_NAME) == name
        and pod["status"].get("phase") not in ("Succeeded", "Failed")
    ]


def attempts_alive(jobs: Namespace, name: str) -> set[str]:
    return {pod["metadata"]["labels"][names.ATTEMPT] for pod in live_pods(jobs, name)}


def lose_the_job(jobs: Namespace, name: str) -> str:
    """Delete the Job and leave its pod; the pod's name."""
    (run,) = jobs.runs(name)
    (pod,) = live_pods(jobs, name)
    jobs.delete("Job", run["metadata"]["name"], "Orphan")
    return pod["metadata"]["name"]


def told_to_stop(jobs: Namespace, pod: str) -> None:
    """Wait until a pod is being deleted; its process is still there."""
    jobs.until("Pod", pod, lambda o: o["metadata"].get("deletionTimestamp"))


def test_the_next_attempt_waits_for_a_pod_without_a_job(jobs: Namespace) -> None:
    jobs.job("stray", backoffLimit=1)
    jobs.phase("stray", "Running")
    # It doesn't end when it is told to, so that the wait for it can be seen.
    with frozen(jobs.run_key("stray")):
        pod = lose_the_job(jobs, "stray")
        body = jobs.until("FineTuneJob", "stray", lambda o: pod in condition(o, "Ready")[2])
        assert phase_of(body) == "Stopping"
        told_to_stop(jobs, pod)
        assert attempts_alive(jobs, "stray") == {"1"}

    def second() -> bool:
        alive = attempts_alive(jobs, "stray")
        assert len(alive) < 2, "two attempts at once write the same checkpoints"
        return alive == {"2"}

    eventually(second)
    jobs.end("stray", attempt=2)
    body = jobs.phase("stray", "Succeeded")
    results = [(item["result"], item.get("reason")) for item in body["status"]["attempts"]]
    assert results[0] == ("Failed", "RunLost")
    assert results[1][0] == "Succeeded"


def test_a_pod_that_lost_its_job_while_no_operator_ran(jobs: Namespace, operator: Operator) -> None:
    jobs.job("stray-unseen", backoffLimit=1)
    jobs.phase("stray-unseen", "Running")
    with frozen(jobs.run_key("stray-unseen")):
        with operator.stopped():
            pod = lose_the_job(jobs, "stray-unseen")
            eventually(lambda: jobs.runs("stray-unseen") == [])
        told_to_stop(jobs, pod)
        assert jobs.runs("stray-unseen") == []
    jobs.end("stray-unseen", attempt=2)
    jobs.phase("stray-unseen", "Succeeded")


@pytest.mark.parametrize("how", ["suspend", "delete"])
def test_a_pod_without_a_job_holds_suspension_and_deletion(jobs: Namespace, how: str) -> None:
    name = f"stray-{how}"
    jobs.job(name)
    jobs.phase(name, "Running")
    with frozen(jobs.run_key(name)):
        pod = lose_the_job(jobs, name)
        eventually(lambda: jobs.runs(name) == [])
        if how == "suspend":
            jobs.patch("FineTuneJob", name, {"spec": {"suspend": True}})
        else:
            jobs.delete("FineTuneJob", name)
        jobs.until("FineTuneJob", name, lambda o: phase_of(o) == "Stopping")
        told_to_stop(jobs, pod)
    if how == "suspend":
        jobs.phase(name, "Suspended")
    else:
        eventually(lambda: jobs.find("FineTuneJob", name) is None)
    assert live_pods(jobs, name) == []


@pytest.mark.parametrize("away", [False, True], ids=["at once", "operator away"])
def test_an_orphaning_deletion_leaves_the_run(
    jobs: Namespace, operator: Operator, away: bool
) -> None:
    name = "let-go-away" if away else "let-go"
    jobs.job(name)
    jobs.phase(name, "Running")
    key = jobs.run_key(name)
    (run,) = jobs.runs(name)
    if away:
        with operator.stopped():
            jobs.delete("FineTuneJob", name, "Orphan")
            eventually(lambda: "ownerReferences" not in jobs.runs(name)[0]["metadata"])
    else:
        jobs.delete("FineTuneJob", name, "Orphan")
    eventually(lambda: jobs.find("FineTuneJob", name) is None)
    (left,) = jobs.runs(name)
    assert left["metadata"]["uid"] == run["metadata"]["uid"]
    (pod,) = live_pods(jobs, name)
    assert "deletionTimestamp" not in pod["metadata"]
    jobs.end_run(key)
    jobs.until("Job", left["metadata"]["name"], lambda job: job["status"].get("succeeded") == 1)

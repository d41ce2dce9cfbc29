"""A plan that is deleted by hand before its run has started is made again."""

from typing import Any

import pytest
from kubetune import names
from kubetune.names import service_name

from tests.cluster.namespace import Namespace, annotations, condition
from tests.cluster.subjects import Subjects
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster


def selector(name: str) -> dict[str, str]:
    return {"kubetune.io/process-node": "true", f"example.com/{name}": "yes"}


def held_back(jobs: Namespace, name: str) -> dict[str, Any]:
    """A target whose pods no node takes until ``let_go``."""
    jobs.create("ComputeTarget", name, jobs.target(nodeSelector=selector(name)))
    jobs.ready("ComputeTarget", name)
    return {"computeTargetRef": {"kind": "ComputeTarget", "name": name}}


def let_go(jobs: Namespace, name: str) -> None:
    node = jobs.request("GET", "/api/v1/nodes")["items"][0]["metadata"]["name"]
    label = {"metadata": {"labels": {f"example.com/{name}": "yes"}}}
    jobs.request("PATCH", f"/api/v1/nodes/{node}", label)


def plan_of(jobs: Namespace, kind: str, name: str) -> dict[str, Any] | None:
    for item in jobs.objects("ConfigMap"):
        labels = item["metadata"].get("labels") or {}
        if labels.get(names.OWNER_KIND) == kind and annotations(item).get(names.OWNER_NAME) == name:
            return item
    return None


def test_the_plan_of_a_waiting_run_is_made_again(jobs: Namespace) -> None:
    jobs.job("forgotten", **held_back(jobs, "late-plan"))
    jobs.waits("FineTuneJob", "forgotten", "Unschedulable")
    before = plan_of(jobs, "FineTuneJob", "forgotten")
    assert before
    jobs.delete("ConfigMap", before["metadata"]["name"])
    let_go(jobs, "late-plan")
    jobs.phase("forgotten", "Running")
    after = plan_of(jobs, "FineTuneJob", "forgotten")
    assert after
    assert after["data"] == before["data"]
    assert after["immutable"] is True
    jobs.end("forgotten")
    body = jobs.phase("forgotten", "Succeeded")
    assert body["status"]["counts"] == {"total": 1, "failed": 0, "preempted": 0}


def test_a_plan_that_would_be_another_is_not_made(jobs: Namespace) -> None:
    jobs.create("Dataset", "moving", {"source": {"inline": {"rows": [{"q": "a"}]}}})
    jobs.create("PromptTemplate", "plain", {"prompt": "{q}", "completion": "{q}"})
    given = {"datasetRef": {"name": "moving"}, "promptRef": {"name": "plain"}}
    jobs.job("moved", **given, **held_back(jobs, "late-rows"))
    jobs.waits("FineTuneJob", "moved", "Unschedulable")
    plan = plan_of(jobs, "FineTuneJob", "moved")
    assert plan
    jobs.patch("Dataset", "moving", {"spec": {"source": {"inline": {"rows": [{"q": "b"}]}}}})
    jobs.ready("Dataset", "moving")
    jobs.delete("ConfigMap", plan["metadata"]["name"])
    let_go(jobs, "late-rows")
    said = jobs.waits("FineTuneJob", "moved", "PlanMissing")
    assert "datasetDigest" in said
    assert plan_of(jobs, "FineTuneJob", "moved") is None


def test_the_service_of_waiting_workers_is_made_again(jobs: Namespace) -> None:
    jobs.job("apart", workers=2, **held_back(jobs, "late-workers"))
    jobs.waits("FineTuneJob", "apart", "Unschedulable")
    service = service_name(jobs.run_key("apart"))
    plan = plan_of(jobs, "FineTuneJob", "apart")
    assert plan
    jobs.delete("Service", service)
    jobs.delete("ConfigMap", plan["metadata"]["name"])
    let_go(jobs, "late-workers")
    eventually(lambda: jobs.find("Service", service))
    body = jobs.phase("apart", "Running")
    assert condition(body, "Running")[0] == "True"


def test_the_plan_of_a_waiting_inspection_is_made_again(jobs: Namespace) -> None:
    rows = {"source": {"inline": {"rows": [{"q": "seen late"}]}}}
    jobs.create("Dataset", "late", rows | held_back(jobs, "late-look"))
    jobs.waits("Dataset", "late", "Unschedulable")
    plan = plan_of(jobs, "Dataset", "late")
    assert plan
    jobs.delete("ConfigMap", plan["metadata"]["name"])
    let_go(jobs, "late-look")
    jobs.ready("Dataset", "late")


@pytest.mark.parametrize("changed", [False, True], ids=["same-inputs", "other-inputs"])
def test_the_plan_of_a_waiting_measurement_is_made_again(jobs: Namespace, changed: bool) -> None:
    name = "late-other" if changed else "late-measurement"
    subjects = Subjects(jobs, jobs.scripted_target(name, nodeSelector=selector(name)))
    jobs.create("Dataset", name, {"source": {"inline": {"rows": [{"prompt": "a"}] * 8}}})
    jobs.create("PromptTemplate", name, {"prompt": "{prompt}", "completion": "{prompt}"})
    jobs.ready("Dataset", name)
    given = {"datasetRef": {"name": name}, "promptRef": {"name": name}, "split": "train"}
    subjects.make("Evaluation", name, **given)
    jobs.waits("Evaluation", name, "Unschedulable")
    before = plan_of(jobs, "Evaluation", name)
    assert before
    if changed:
        rows = [{"prompt": "b"}] * 8
        jobs.patch("Dataset", name, {"spec": {"source": {"inline": {"rows": rows}}}})
        jobs.ready("Dataset", name)
    jobs.delete("ConfigMap", before["metadata"]["name"])
    let_go(jobs, name)
    if changed:
        assert "inputs have changed" in jobs.waits("Evaluation", name, "PlanMissing")
        assert plan_of(jobs, "Evaluation", name) is None
        return
    pod = subjects.running("Evaluation", name)
    after = plan_of(jobs, "Evaluation", name)
    assert after
    assert after["data"] == before["data"]
    subjects.end("Evaluation", pod)
    (candidate,) = subjects.done("Evaluation", name)["status"]["candidates"]
    assert candidate["counts"] == {"total": 1, "failed": 0, "preempted": 0}

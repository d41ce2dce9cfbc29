"""The Model of a result stands alone: its job may go at any moment."""

import json
from typing import Any

import pytest
from kubetune.api.kinds.inspection import AdapterSettings
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace
from tests.cluster.subjects import BASE, Subjects
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run

pytestmark = pytest.mark.cluster


def test_the_time_to_live_waits_until_the_output_was_read(cluster: LocalCluster, jobs: Namespace):
    """The scripted result has no files, so its Model ends Stalled: either way it was read."""
    jobs.job("brief-output", ttlSecondsAfterFinished=0, output={"modelName": "brief-output"})
    jobs.phase("brief-output", "Running")
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, "brief-output")
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    jobs.end("brief-output", outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    eventually(lambda: jobs.find("FineTuneJob", "brief-output") is None)
    status = jobs.get("Model", "brief-output")["status"]
    (rows,) = status["jobOutput"].pop("trainedOn")
    assert rows["by"] == "brief-output"
    assert status["jobOutput"] == {"name": "brief-output", "uri": f"models:/{model_id}"}
    assert status["inspection"]["reason"] == "ModelFilesMissing"


def test_a_job_that_is_deleted_at_once_leaves_a_model_that_is_read(
    cluster: LocalCluster, jobs: Namespace
):
    jobs.job("gone-at-once", output={"modelName": "left"})
    jobs.phase("gone-at-once", "Running")
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, "gone-at-once")
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    jobs.end("gone-at-once", outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    eventually(lambda: jobs.find("Model", "left"), interval=0.02)
    jobs.delete("FineTuneJob", "gone-at-once")
    jobs.stalls("Model", "left", "ModelFilesMissing")


def plan_of(jobs: Namespace, kind: str, name: str) -> dict[str, Any]:
    """The plan of an object's only run."""
    (found,) = jobs.children("ConfigMap", name, kind)
    return json.loads(found["data"]["plan.json"])


def test_what_is_made_of_a_result_needs_no_job(cluster: LocalCluster, jobs: Namespace):
    """Its adapter is trained on, measured, and kept from the rows that it was trained on."""
    subjects = Subjects(jobs, jobs.scripted_target("all-scripted"))
    jobs.job("gone", ttlSecondsAfterFinished=0, output={"modelName": "made"}, **subjects.target)
    jobs.phase("gone", "Running")
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, "gone")
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    jobs.end("gone", outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    settings = AdapterSettings.model_validate({"rank": 8, "alpha": 16, "targetModules": ["q_proj"]})
    adapter = BASE.model_copy(update={"type": "adapter", "adapter": settings})
    found = Outcome(status="succeeded", reason="Inspected", summary=adapter.to_json())
    pod = subjects.running("Model", "made")
    jobs.end_run(subjects.run_key(pod), outcome=found)
    jobs.ready("Model", "made")
    eventually(lambda: jobs.find("FineTuneJob", "gone") is None)
    uri = f"models:/{model_id}"

    for how in ("adapter", "merged"):
        subjects.make("FineTuneJob", f"further-{how}", modelRef={"name": "made"}, continueFrom=how)
        jobs.phase(f"further-{how}", "Running")
        assert plan_of(jobs, "FineTuneJob", f"further-{how}")["model"]["registryUri"] == uri

    both = [{"name": name, "modelRef": {"name": name}} for name in ("base", "made")]
    subjects.make("Evaluation", "on-seen-rows", candidates=both, split="train")
    assert "FineTuneJob gone" in jobs.stalls("Evaluation", "on-seen-rows", "TrainedOnRows")
    subjects.make("Evaluation", "measured", candidates=both[1:])
    pod = subjects.running("Evaluation", "measured")
    assert plan_of(jobs, "Evaluation", "measured")["model"]["registryUri"] == uri
    subjects.end("Evaluation", pod)
    subjects.done("Evaluation", "measured")

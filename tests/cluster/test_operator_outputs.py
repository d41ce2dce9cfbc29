"""The Model of a result stands alone: its job may go at any moment."""

from typing import Any

import pytest
from kubetune.api.outcome import Outcome
from kubetune.local.cluster import LocalCluster

from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run
from tests.cluster.workspace import Workspace

pytestmark = pytest.mark.cluster


def test_the_time_to_live_waits_until_the_output_was_read(cluster: LocalCluster, jobs: Workspace):
    """The scripted result has no files, so its Model ends Stalled: either way it was read."""
    jobs.job("brief-output", ttlSecondsAfterFinished=0, output={"modelName": "brief-output"})
    jobs.phase("brief-output", "Running")
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, "brief-output")
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    jobs.end("brief-output", outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    eventually(lambda: jobs.find("FineTuneJob", "brief-output") is None)
    status = jobs.get("Model", "brief-output")["status"]
    assert status["jobOutput"] == {"name": "brief-output", "uri": f"models:/{model_id}"}
    assert status["inspection"]["reason"] == "ModelFilesMissing"


def test_a_job_that_is_deleted_at_once_leaves_a_model_that_is_read(
    cluster: LocalCluster, jobs: Workspace
):
    jobs.job("gone-at-once", output={"modelName": "left"})
    jobs.phase("gone-at-once", "Running")
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, "gone-at-once")
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    jobs.end("gone-at-once", outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    eventually(lambda: jobs.find("Model", "left"), interval=0.02)
    jobs.delete("FineTuneJob", "gone-at-once")
    jobs.stalls("Model", "left", "ModelFilesMissing")

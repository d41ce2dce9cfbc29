"""The life of a FineTuneJob on a real cluster, with scripted trainings."""

import json
from datetime import datetime
from typing import Any

import pytest
from kubetune.api.run.outcome import ExitCode, Outcome

from tests.cluster.namespace import TRAINED, Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

REFUSED = Outcome(status="failed", reason="DatasetChanged", message="other rows than before")
CRASHED = Outcome(status="failed", reason="OutOfMemory", message="killed", retryable=True)


def attempts(body: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Result and reason of each attempt."""
    return [(item["result"], item.get("reason")) for item in body["status"].get("attempts", ())]


def test_a_job_runs_and_succeeds(jobs: Namespace):
    jobs.job("plain")
    body = jobs.phase("plain", "Running")
    assert condition(body, "Running")[0] == "True"
    assert condition(body, "InputsReady")[0] == "True"
    assert body["status"]["effective"]["hyperparameters"]["maxSteps"] == 1
    assert body["status"]["external"]["target"] == "ComputeTarget/scripted"
    (run,) = jobs.runs("plain")
    container = run["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "50m", "memory": "64Mi"}
    jobs.end("plain")
    body = jobs.phase("plain", "Succeeded")
    assert condition(body, "Complete")[0] == "True"
    assert condition(body, "Ready")[0] == "True"
    assert attempts(body) == [("Succeeded", "Trained")]
    assert body["status"]["result"]["metrics"] == {"evalLoss": "0.5"}
    assert body["status"]["counts"] == {"total": 1, "failed": 0, "preempted": 0}


def test_a_failed_attempt_is_repeated_and_recorded(jobs: Namespace):
    jobs.job("again", backoffLimit=1)
    jobs.end("again", code=ExitCode.FAILED, outcome=CRASHED)
    failed = [("Failed", "OutOfMemory")]
    waiting = jobs.until(
        "FineTuneJob", "again", lambda o: phase_of(o) == "Queued" and attempts(o)[:1] == failed
    )
    assert condition(waiting, "Ready")[1] in ("Retrying", "Queued", "PodPending")
    jobs.end("again", attempt=2, code=3, outcome=None)
    body = jobs.phase("again", "Failed")
    assert attempts(body) == [("Failed", "OutOfMemory"), ("Failed", "RunFailed")]
    assert body["status"]["attempts"][1]["exitCode"] == 3
    assert body["status"]["counts"]["failed"] == 2
    assert "spec.backoffLimit is 1" in condition(body, "Failed")[2]
    assert len(jobs.runs("again")) == 2


def test_what_another_attempt_cannot_cure_is_not_repeated(jobs: Namespace):
    jobs.job("refused", backoffLimit=5)
    jobs.end("refused", code=ExitCode.REFUSED, outcome=REFUSED)
    body = jobs.phase("refused", "Failed")
    assert condition(body, "Failed") == ("True", "DatasetChanged", "other rows than before")
    assert body["status"]["failure"]["retryable"] is False
    assert len(jobs.runs("refused")) == 1


def test_suspend_stops_the_run_and_resume_starts_another(jobs: Namespace):
    jobs.job("pause", backoffLimit=0)
    body = jobs.phase("pause", "Running")
    assert condition(body, "ProgressKept")[:2] == ("False", "NoDurableClaim"), "said before"
    assert "checkpoint" not in body["status"]["effective"]
    jobs.patch("FineTuneJob", "pause", {"spec": {"suspend": True}})
    body = jobs.phase("pause", "Suspended")
    assert jobs.runs("pause") == []
    assert [result for result, _ in attempts(body)] == ["Stopped"]
    jobs.patch("FineTuneJob", "pause", {"spec": {"suspend": False}})
    jobs.end("pause", attempt=2)
    body = jobs.phase("pause", "Succeeded")
    assert [result for result, _ in attempts(body)] == ["Stopped", "Succeeded"]
    assert body["status"]["counts"]["failed"] == 0


def test_a_job_made_suspended_starts_when_it_is_let_go(jobs: Namespace):
    jobs.job("held", suspend=True)
    jobs.phase("held", "Suspended")
    assert jobs.runs("held") == []
    change = {"suspend": True, "resources": {"cpu": "70m"}}
    jobs.patch("FineTuneJob", "held", {"spec": change})
    jobs.patch("FineTuneJob", "held", {"spec": {"suspend": False}})
    jobs.end("held")
    jobs.phase("held", "Succeeded")
    (run,) = jobs.runs("held")
    assert run["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "70m"


def test_the_deadline_ends_a_job(jobs: Namespace):
    jobs.job("late", activeDeadlineSeconds=1)
    body = jobs.phase("late", "Failed")
    assert condition(body, "Failed")[1] == "DeadlineExceeded"
    (run,) = jobs.runs("late")
    assert "succeeded" not in run["status"]
    assert not run["status"].get("active")


def test_the_time_to_live_removes_job_and_runs(jobs: Namespace):
    jobs.job("brief", ttlSecondsAfterFinished=0)
    jobs.end("brief")
    eventually(lambda: jobs.find("FineTuneJob", "brief") is None)
    eventually(lambda: jobs.runs("brief") == [])


@pytest.mark.parametrize("policy", ["Delete", "Orphan"])
def test_deletion_stops_the_run_or_leaves_it(jobs: Namespace, policy: str):
    name = f"gone-{policy.lower()}"
    jobs.job(name, deletionPolicy=policy)
    jobs.phase(name, "Running")
    run_key = jobs.run_key(name)
    (run,) = jobs.runs(name)
    jobs.delete("FineTuneJob", name)
    eventually(lambda: jobs.find("FineTuneJob", name) is None)
    if policy == "Delete":
        eventually(lambda: jobs.runs(name) == [])
        return
    (left,) = jobs.runs(name)
    assert left["metadata"]["uid"] == run["metadata"]["uid"]
    assert "ownerReferences" not in left["metadata"]
    jobs.end_run(run_key)
    jobs.until("Job", left["metadata"]["name"], lambda job: job["status"].get("succeeded") == 1)


def test_a_job_deleted_right_after_its_creation_leaves_nothing(jobs: Namespace):
    for at in range(5):
        jobs.job(f"short-{at}")
        jobs.delete("FineTuneJob", f"short-{at}")
    for at in range(5):
        eventually(lambda at=at: jobs.find("FineTuneJob", f"short-{at}") is None)
        eventually(lambda at=at: jobs.runs(f"short-{at}") == [])


def test_a_dataset_deleted_while_its_job_runs_changes_nothing(jobs: Namespace):
    jobs.create("Dataset", "passing", {"source": {"inline": {"rows": [{"prompt": "a"}]}}})
    jobs.ready("Dataset", "passing")
    jobs.create("PromptTemplate", "echo", {"prompt": "{prompt}", "completion": "{prompt}"})
    jobs.job("steady", datasetRef={"name": "passing"}, promptRef={"name": "echo"})
    jobs.phase("steady", "Running")
    jobs.delete("Dataset", "passing")
    jobs.end("steady")
    jobs.phase("steady", "Succeeded")


@pytest.mark.parametrize("length", [63, 253])
def test_long_names_run(jobs: Namespace, length: int):
    # As a DNS subdomain: labels of at most 63 characters.
    name = ".".join(["n" * 61] * 4).ljust(253, "n")[:length] if length > 63 else "n" * length
    dataset, template = "d" + name[1:], "p" + name[1:]
    jobs.create("Dataset", dataset, {"source": {"inline": {"rows": [{"q": "a"}]}}})
    jobs.create("PromptTemplate", template, {"prompt": "{q}", "completion": "{q}"})
    jobs.job(name, datasetRef={"name": dataset}, promptRef={"name": template})
    jobs.end(name)
    jobs.phase(name, "Succeeded")


def test_the_name_of_an_output_belongs_to_one_job(jobs: Namespace):
    jobs.job("first", output={"modelName": "made"})
    jobs.phase("first", "Running")
    jobs.job("second", output={"modelName": "made"}, hyperparameters={"maxSteps": 2})
    message = jobs.stalls("FineTuneJob", "second", "OutputModelTaken")
    assert "first" in message
    assert "made" in message
    jobs.end("first", outcome=TRAINED)
    jobs.phase("first", "Succeeded")
    assert jobs.runs("second") == []
    jobs.delete("FineTuneJob", "first")
    made = jobs.get("Model", "made")
    assert "ownerReferences" not in made["metadata"]


def test_a_finished_job_never_runs_again(jobs: Namespace, operator: Operator):
    jobs.create("Dataset", "edited", {"source": {"inline": {"rows": [{"q": "a"}]}}})
    jobs.create("PromptTemplate", "short", {"prompt": "{q}", "completion": "{q}"})
    given = {"datasetRef": {"name": "edited"}, "promptRef": {"name": "short"}}
    jobs.job("done", **given)
    jobs.job("bad", backoffLimit=0, **given)
    jobs.end("done")
    jobs.end("bad", code=ExitCode.FAILED, outcome=None)
    finished = [jobs.phase("done", "Succeeded"), jobs.phase("bad", "Failed")]
    for name in ("done", "bad"):
        for run in jobs.runs(name):
            jobs.delete("Job", run["metadata"]["name"])
        eventually(lambda name=name: jobs.runs(name) == [])
    with operator.crashed():
        pass
    jobs.patch("Dataset", "edited", {"spec": {"source": {"inline": {"rows": [{"q": "b"}]}}}})
    jobs.patch("PromptTemplate", "short", {"spec": {"prompt": "Q: {q}"}})
    # By the time a later job runs, the earlier ones were looked at.
    jobs.job("later", **given)
    jobs.phase("later", "Running")
    for before in finished:
        name = before["metadata"]["name"]
        after = jobs.get("FineTuneJob", name)
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        assert jobs.runs(name) == []


def test_a_run_that_ended_while_no_operator_looked(jobs: Namespace, operator: Operator):
    jobs.job("unseen")
    jobs.phase("unseen", "Running")
    with operator.stopped():
        jobs.end("unseen")
        (run,) = jobs.runs("unseen")
        name = run["metadata"]["name"]
        jobs.until("Job", name, lambda job: job["status"].get("succeeded") == 1)
    body = jobs.phase("unseen", "Succeeded")
    assert attempts(body) == [("Succeeded", "Trained")]


def test_a_run_deleted_by_hand_is_a_failed_attempt(jobs: Namespace):
    jobs.job("lost", backoffLimit=0)
    jobs.phase("lost", "Running")
    (run,) = jobs.runs("lost")
    jobs.end("lost", code=1, outcome=None)
    jobs.delete("Job", run["metadata"]["name"])
    body = jobs.phase("lost", "Failed")
    assert len(body["status"]["attempts"]) == 1


def test_times_and_plan_of_a_job(jobs: Namespace):
    template = "Ünïcödé ☃ " * 200 + "{prompt}"
    jobs.create("PromptTemplate", "unicode", {"prompt": template, "completion": "{completion}"})
    jobs.job("frozen", promptRef={"name": "unicode"})
    body = jobs.phase("frozen", "Running")
    (plan,) = [
        item
        for item in jobs.objects("ConfigMap")
        if item["metadata"]["name"].startswith("frozen-") and "plan.json" in item["data"]
    ]
    assert plan["immutable"] is True
    content = json.loads(plan["data"]["plan.json"])
    assert content["prompt"]["prompt"] == template
    assert content["lineageDigest"] == body["status"]["lineage"]["digest"]
    jobs.patch("PromptTemplate", "unicode", {"spec": {"prompt": "{prompt}"}})
    jobs.end("frozen")
    status = jobs.phase("frozen", "Succeeded")["status"]
    assert datetime.fromisoformat(status["startTime"]) <= datetime.fromisoformat(
        status["completionTime"]
    )

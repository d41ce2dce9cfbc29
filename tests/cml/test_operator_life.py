"""The life of FineTuneJobs in CML under whatever may happen to their runs, by the real operator."""

from typing import Any

import pytest
from kubetune.api.run.plan import TAG_RUN_KEY, outcome_tag
from kubetune_devcluster.cml.server import FOREVER, Script
from kubetune_devcluster.cml.server.records import Job
from kubetune_devcluster.cml.server.statuses import STOPPED
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import TRAINED, condition
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cluster.tracked_run import vouched_tags
from tests.cml.lives import (
    CRASHED,
    REFUSED,
    RUNNING,
    SCHEDULING,
    attempts,
    ended,
    failed,
    staying,
    succeeded,
)
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster

# Longer than the operator takes to see a status, and short enough to wait for.
OPERATOR = {"KUBETUNE_CML_UNKNOWN_SECONDS": "10"}
OUT_OF_MEMORY: dict[str, Any] = {
    "oom_killed": True,
    "k8s_info": {"k8s_exit_code": 137, "k8s_reason": "OOMKilled"},
}


def running(space: CmlSpace, name: str) -> Job:
    """The CML job of a FineTuneJob once its run is seen to run."""
    space.phase(name, "Running")
    return space.cml_jobs(name)[-1]


def cancelled(space: CmlSpace, name: str) -> dict[str, Any]:
    """The job once it is over."""
    over = ("Succeeded", "Failed", "Cancelled")
    body = space.until("FineTuneJob", name, lambda o: (o.get("status") or {}).get("phase") in over)
    assert body["status"]["phase"] == "Cancelled", body["status"]
    return body


# --- failures and retries


def test_failed_attempts_are_repeated_with_reasons_of_their_own(cml_jobs: CmlSpace) -> None:
    broken = {"k8s_exit_code": 3, "k8s_message": "the image is broken"}
    cml_jobs.scripts["again"] = [
        failed(CRASHED),
        failed(**OUT_OF_MEMORY),
        failed(message="", k8s_info=broken),
        succeeded(),
    ]
    cml_jobs.job("again", backoffLimit=3)
    body = cml_jobs.phase("again", "Succeeded")
    assert attempts(body) == [
        ("Failed", "DiskFull"),
        ("Failed", "OutOfMemory"),
        ("Failed", "RunFailed"),
        ("Succeeded", "Trained"),
    ]
    said = [attempt.get("message", "") for attempt in body["status"]["attempts"]]
    assert said[0] == "no space left"
    assert "spec.resources.memory" in said[1]
    assert said[2] == "The run ended with exit code 3: the image is broken"
    codes = [attempt.get("exitCode") for attempt in body["status"]["attempts"]]
    assert codes[1:3] == [137, 3]
    assert body["status"]["counts"] == {"total": 4, "failed": 3, "preempted": 0}
    (job,) = cml_jobs.cml_jobs("again")
    numbers = [run.environment["KUBETUNE_ATTEMPT"] for run in cml_jobs.cml_runs("again")]
    assert numbers == ["1", "2", "3", "4"]
    assert cml_jobs.simulator.most_active(job.id) <= 1


def test_the_usage_row_of_a_run_is_found_by_name_and_time(cml_jobs: CmlSpace) -> None:
    clock: Any = cml_jobs.simulator.clock
    cml_jobs.scripts["named"] = [
        failed(after=100, id="first", message="disk quota exceeded"),
        failed(after=100, id="second", message="killed by an admin"),
    ]
    cml_jobs.job("named", backoffLimit=1)
    for count in (1, 2):
        eventually(lambda count=count: len(cml_jobs.cml_runs("named")) == count)
        clock.advance(200)
    body = cml_jobs.phase("named", "Failed")
    said = [attempt["message"] for attempt in body["status"]["attempts"]]
    assert ["quota" in said[0], "admin" in said[1]] == [True, True]


def test_the_backoff_limit_ends_a_job_whose_runs_leave_no_trace(cml_jobs: CmlSpace) -> None:
    cml_jobs.simulator.behaviour.no_usage = True
    cml_jobs.scripts["silent"] = failed()
    cml_jobs.job("silent", backoffLimit=1)
    body = cml_jobs.phase("silent", "Failed")
    assert attempts(body) == [("Failed", "RunFailed")] * 2
    status, reason, message = condition(body, "Failed")
    assert (status, reason) == ("True", "RunFailed")
    assert "left no reason; see its log in CML" in message
    assert "spec.backoffLimit is 1" in message
    assert len(cml_jobs.cml_runs("silent")) == 2


def test_a_reason_that_is_told_late_is_found(cml_jobs: CmlSpace) -> None:
    """The list of workloads lacks the run when it is first seen to have ended."""
    early: list[int] = []

    def late(operation: str, answer: dict[str, Any]) -> dict[str, Any]:
        if operation != "list_usage" or early:
            return answer
        early.append(len(answer["usage_response"]))
        return answer | {"usage_response": []}

    cml_jobs.simulator.behaviour.distort = late
    cml_jobs.scripts["word-comes"] = failed(**OUT_OF_MEMORY)
    cml_jobs.job("word-comes", backoffLimit=0)
    body = cml_jobs.phase("word-comes", "Failed")
    assert early
    assert attempts(body) == [("Failed", "OutOfMemory")]


def test_what_another_attempt_cannot_cure_is_not_repeated(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["refused"] = failed(REFUSED)
    cml_jobs.job("refused", backoffLimit=5)
    body = cml_jobs.phase("refused", "Failed")
    assert condition(body, "Failed") == ("True", "DatasetChanged", "other rows than before")
    assert len(cml_jobs.cml_runs("refused")) == 1


def test_the_tracked_run_tells_the_outcome_when_its_file_is_missing(cml_jobs: CmlSpace) -> None:
    clock: Any = cml_jobs.simulator.clock
    cml_jobs.scripts["told"] = failed(after=100)
    cml_jobs.job("told", backoffLimit=5)
    eventually(lambda: cml_jobs.cml_runs("told"))
    client: Any = MlflowClient(cml_jobs.cluster.mlflow_url)
    name = f"kubetune-{cml_jobs.namespace}"
    known = client.get_experiment_by_name(name)
    experiment = known.experiment_id if known else client.create_experiment(name)
    told = vouched_tags(cml_jobs, "told", {outcome_tag(1): REFUSED.to_message()})
    tags = {TAG_RUN_KEY: cml_jobs.run_key("told"), **told}
    client.create_run(experiment, tags=tags)
    clock.advance(200)
    body = cml_jobs.phase("told", "Failed")
    assert condition(body, "Failed") == ("True", "DatasetChanged", "other rows than before")
    assert attempts(body) == [("Failed", "DatasetChanged")]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_cml_timed_out_is_over(cml_jobs: CmlSpace, finished: bool) -> None:
    name = "late" if finished else "endless"
    # Without an end it may still run, and cost.
    cml_jobs.scripts[name] = (
        ended("ENGINE_TIMEDOUT") if finished else staying(RUNNING, "ENGINE_TIMEDOUT")
    )
    cml_jobs.job(name, backoffLimit=0)
    body = cml_jobs.phase(name, "Failed")
    assert attempts(body) == [("Failed", "TimedOut")]
    assert condition(body, "Failed")[1] == "TimedOut"
    (run,) = cml_jobs.cml_runs(name)
    assert run.finished is not None
    assert (run.stop_asked is None) is finished


def test_a_result_that_is_missing_in_mlflow_is_no_success(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["hollow"] = succeeded()
    cml_jobs.job("hollow", output={"registry": {}})
    body = cml_jobs.phase("hollow", "Failed")
    assert condition(body, "Failed")[1] == "ResultMissing"
    assert attempts(body) == [("Succeeded", "Trained")]


# --- statuses


def test_a_status_that_nobody_knows_is_no_end(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["flapping"] = Script(steps=((RUNNING, FOREVER),), outcome=TRAINED.to_json())
    cml_jobs.job("flapping", backoffLimit=0)
    running(cml_jobs, "flapping")
    (run,) = cml_jobs.cml_runs("flapping")
    for word in ("ENGINE_UNKNOWN", "ENGINE_HIBERNATING", "ENGINE_UNKNOWN"):
        cml_jobs.simulator.set_status(run.id, word)
        body = cml_jobs.until(
            "FineTuneJob",
            "flapping",
            lambda o: condition(o, "Running")[:2] == ("Unknown", "StatusUnknown"),
        )
        assert word.removeprefix("ENGINE_") in condition(body, "Running")[2]
        assert body["status"]["phase"] == "Running"
        cml_jobs.simulator.set_status(run.id, None)
        cml_jobs.until(
            "FineTuneJob", "flapping", lambda o: condition(o, "Running")[:2] == ("True", "Started")
        )
    cml_jobs.simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    body = cml_jobs.phase("flapping", "Succeeded")
    assert attempts(body) == [("Succeeded", "Trained")]


def test_a_run_without_a_known_status_is_lost_in_the_end(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["lost"] = staying(RUNNING, "ENGINE_UNKNOWN")
    cml_jobs.job("lost", backoffLimit=0)
    body = cml_jobs.phase("lost", "Failed")
    assert attempts(body) == [("Failed", "RunLost")]
    assert "UNKNOWN" in condition(body, "Failed")[2]
    # It may still run.
    (run,) = cml_jobs.cml_runs("lost")
    assert run.stop_asked is not None


def test_endless_scheduling_is_stopped(cml_jobs: CmlSpace) -> None:
    spec = cml_jobs.cml_target(schedulingTimeoutSeconds=1)
    cml_jobs.create("ComputeTarget", "impatient", spec)
    cml_jobs.scripts["queued"] = staying(SCHEDULING)
    cml_jobs.job("queued", backoffLimit=0, computeTargetRef={"name": "impatient"})
    body = cml_jobs.phase("queued", "Failed")
    # The clocks of workspace and operator differ: by its times the run did not wait at all.
    assert attempts(body) == [("Failed", "SchedulingTimedOut")]
    assert "schedulingTimeoutSeconds" in condition(body, "Failed")[2]
    (run,) = cml_jobs.cml_runs("queued")
    assert run.status == STOPPED


def test_statuses_of_an_older_api_and_fields_of_a_newer_one(cml_jobs: CmlSpace) -> None:
    behaviour = cml_jobs.simulator.behaviour
    behaviour.short_status = behaviour.extra_fields = True
    behaviour.omit_environment = "lists"
    clock: Any = cml_jobs.simulator.clock
    life = ((SCHEDULING, 10), ("ENGINE_STARTING", 10), (RUNNING, 10))
    cml_jobs.scripts["mixed"] = [
        Script(steps=life, ends="ENGINE_FAILED", outcome=CRASHED.to_json()),
        Script(steps=life, outcome=TRAINED.to_json()),
    ]
    cml_jobs.job("mixed", backoffLimit=1)
    for _ in range(2):
        for reason in ("Queued", "PodPending", "Started"):
            cml_jobs.until(
                "FineTuneJob",
                "mixed",
                lambda o, reason=reason: condition(o, "Running")[1] == reason,
            )
            clock.advance(11)
    body = cml_jobs.phase("mixed", "Succeeded")
    assert attempts(body) == [("Failed", "DiskFull"), ("Succeeded", "Trained")]


# --- what people do


def test_suspend_stops_the_run_and_resume_starts_another(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["pause"] = [staying(RUNNING), succeeded()]
    cml_jobs.job("pause", backoffLimit=0)
    job = running(cml_jobs, "pause")
    cml_jobs.patch("FineTuneJob", "pause", {"spec": {"suspend": True}})
    body = cml_jobs.phase("pause", "Suspended")
    (run,) = cml_jobs.cml_runs("pause")
    assert run.status == STOPPED
    assert attempts(body) == [("Stopped", None)]
    cml_jobs.patch("FineTuneJob", "pause", {"spec": {"suspend": False}})
    body = cml_jobs.phase("pause", "Succeeded")
    assert attempts(body) == [("Stopped", None), ("Succeeded", "Trained")]
    assert body["status"]["counts"]["failed"] == 0
    assert [made.id for made in cml_jobs.cml_jobs("pause")] == [job.id]


def test_suspend_stops_a_run_whose_status_nobody_knows(cml_jobs: CmlSpace) -> None:
    cml_jobs.job("unsure", backoffLimit=0)
    running(cml_jobs, "unsure")
    (run,) = cml_jobs.cml_runs("unsure")
    cml_jobs.simulator.set_status(run.id, "ENGINE_UNKNOWN")
    cml_jobs.until("FineTuneJob", "unsure", lambda o: condition(o, "Running")[1] == "StatusUnknown")
    cml_jobs.patch("FineTuneJob", "unsure", {"spec": {"suspend": True}})
    body = cml_jobs.phase("unsure", "Suspended")
    assert attempts(body) == [("Stopped", None)]


@pytest.mark.parametrize("policy", ["Delete", "Orphan"])
def test_deletion_removes_all_or_leaves_all(cml_jobs: CmlSpace, policy: str) -> None:
    name = f"gone-{policy.lower()}"
    cml_jobs.job(name, deletionPolicy=policy)
    job = running(cml_jobs, name)
    (run,) = cml_jobs.cml_runs(name)
    files = cml_jobs.simulator.files() / ".kubetune" / "runs" / cml_jobs.run_key(name)
    assert files.is_dir()
    cml_jobs.delete("FineTuneJob", name)
    eventually(lambda: cml_jobs.find("FineTuneJob", name) is None)
    kept = policy == "Orphan"
    assert run.active is kept
    assert (job.deleted is None) is kept
    assert files.is_dir() is kept


def test_the_deadline_ends_a_job(cml_jobs: CmlSpace) -> None:
    cml_jobs.job("overdue", activeDeadlineSeconds=2)
    body = cml_jobs.phase("overdue", "Failed")
    assert condition(body, "Failed")[1] == "DeadlineExceeded"
    (job,) = cml_jobs.cml_jobs("overdue")
    assert job.settings["timeout"] == 2
    eventually(lambda: [run.status for run in cml_jobs.cml_runs("overdue")] == [STOPPED])


def test_a_run_that_is_stopped_in_the_page_cancels_its_job(cml_jobs: CmlSpace) -> None:
    cml_jobs.job("by-hand", backoffLimit=3)
    running(cml_jobs, "by-hand")
    (run,) = cml_jobs.cml_runs("by-hand")
    cml_jobs.simulator.stop_run_by_hand(run.id)
    body = cancelled(cml_jobs, "by-hand")
    assert attempts(body) == [("Stopped", "StoppedByHand")]
    assert "stopped in CML" in condition(body, "Ready")[2]
    assert len(cml_jobs.cml_runs("by-hand")) == 1


def test_a_job_that_is_deleted_in_the_page_is_made_again(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["vanished"] = [staying(RUNNING), succeeded()]
    cml_jobs.job("vanished", backoffLimit=1)
    job = running(cml_jobs, "vanished")
    cml_jobs.simulator.delete_job_by_hand(job.id)
    body = cml_jobs.phase("vanished", "Succeeded")
    assert attempts(body) == [("Failed", "RunLost"), ("Succeeded", "Trained")]
    first, second = cml_jobs.cml_jobs("vanished")
    assert first.id == job.id
    assert body["status"]["external"]["jobId"] == second.id


# --- afterwards


def test_the_time_to_live_removes_job_and_files(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["brief"] = succeeded()
    cml_jobs.job("brief", ttlSecondsAfterFinished=0)
    # Its object may be gone at any moment: what is left of it is in the workspace.
    eventually(lambda: [job.deleted for job in cml_jobs.cml_jobs("brief")] not in ([], [None]))
    eventually(lambda: cml_jobs.find("FineTuneJob", "brief") is None)
    (job,) = cml_jobs.cml_jobs("brief")
    run_key = job.environment["KUBETUNE_RUN_KEY"]
    assert not (cml_jobs.simulator.files() / ".kubetune" / "runs" / run_key).exists()


def test_finished_jobs_are_not_asked_about(cml_jobs: CmlSpace, cml_operator: Operator) -> None:
    cml_jobs.scripts |= {"done": succeeded(), "bad": failed(REFUSED), "later": succeeded(after=10)}
    for name in ("done", "bad", "halted", "paused"):
        cml_jobs.job(name)
    cml_jobs.phase("done", "Succeeded")
    cml_jobs.phase("bad", "Failed")
    running(cml_jobs, "halted")
    (run,) = cml_jobs.cml_runs("halted")
    cml_jobs.simulator.stop_run_by_hand(run.id)
    cancelled(cml_jobs, "halted")
    running(cml_jobs, "paused")
    cml_jobs.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    cml_jobs.phase("paused", "Suspended")
    ended = [cml_jobs.cml_jobs(name)[0].id for name in ("done", "bad", "halted", "paused")]
    before = len(cml_jobs.simulator.requests)

    # By the time a later job has ended, the earlier ones were looked at several times.
    cml_jobs.job("later")
    running(cml_jobs, "later")
    for round_ in range(2):
        for name in ("done", "bad", "halted", "paused"):
            note = {"metadata": {"annotations": {"example.com/round": str(round_)}}}
            cml_jobs.patch("FineTuneJob", name, note)
        looked_at(cml_jobs, "later")
    clock: Any = cml_jobs.simulator.clock
    clock.advance(20)
    cml_jobs.phase("later", "Succeeded")
    asked = [request.path for request in cml_jobs.simulator.requests[before:]]
    assert [path for path in asked if any(job in path for job in ended)] == []


def looked_at(space: CmlSpace, name: str) -> None:
    """Return when the operator has asked CML about the job's run twice more."""
    (job,) = space.cml_jobs(name)

    def count() -> int:
        return sum(job.id in request.path for request in space.simulator.requests)

    wanted = count() + 2
    eventually(lambda: count() >= wanted)

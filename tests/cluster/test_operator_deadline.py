"""activeDeadlineSeconds counts the time that runs are under way, and what they did comes first."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from kubetune import names
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.relay import Relay
from tests.cluster.subjects import Subjects
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run

pytestmark = pytest.mark.cluster

LIMITED = ("FineTuneJob", "Evaluation")


@pytest.fixture(scope="module")
def subjects(module_space: Namespace) -> Subjects:
    return Subjects(module_space, module_space.scripted_target("all-scripted"))


@pytest.fixture
def relay(cluster: LocalCluster) -> Iterator[Relay]:
    relay = Relay(cluster.mlflow_url)
    yield relay
    relay.close()


def until_past(body: dict[str, Any], seconds: float) -> None:
    """Return when the newest attempt of a job has been running for longer than this."""
    began = datetime.fromisoformat(body["status"]["attempts"][-1]["startTime"]).timestamp()
    eventually(lambda: time.time() > began + seconds)


def only_run(jobs: Namespace, name: str, kind: str = "FineTuneJob") -> dict[str, Any]:
    (run,) = jobs.runs(name, kind)
    return run


def deadline_of(jobs: Namespace, job: str) -> int | None:
    return only_run(jobs, job)["spec"].get("activeDeadlineSeconds")


def elapsed(jobs: Namespace, job: str) -> float:
    """Seconds from the first moment of the Job to the start of the run."""
    # A quick pod runs before its Job says that it has begun.
    noted = eventually(lambda: only_run(jobs, job).get("status", {}).get("startTime"))
    began, body = datetime.fromisoformat(noted), jobs.get("FineTuneJob", job)
    started = datetime.fromisoformat(body["status"]["attempts"][-1]["startTime"])
    return (started - began).total_seconds()


def test_a_success_that_no_operator_saw_counts_after_the_deadline(
    jobs: Namespace, subjects: Subjects, operator: Operator
):
    for kind in ("Evaluation", "FineTuneJob"):
        subjects.make(kind, "in-time", activeDeadlineSeconds=20)
    pods = {kind: subjects.running(kind, "in-time") for kind in LIMITED}
    body = jobs.phase("in-time", "Running")
    with operator.stopped():
        for kind, pod in pods.items():
            subjects.end(kind, pod)
            name = only_run(jobs, "in-time", kind)["metadata"]["name"]
            jobs.until("Job", name, lambda job: job["status"].get("succeeded") == 1)
        until_past(body, 21)
    for kind in LIMITED:
        subjects.done(kind, "in-time")


def test_registration_is_not_training(cluster: LocalCluster, jobs: Namespace, relay: Relay):
    jobs.create("ComputeTarget", "away", jobs.target(relay.url))
    registry = {"name": f"{jobs.namespace}-registered-late"}
    jobs.job(
        "registered-late",
        activeDeadlineSeconds=15,
        output={"registry": registry},
        computeTargetRef={"kind": "ComputeTarget", "name": "away"},
    )
    body = jobs.phase("registered-late", "Running")
    run_id, model_id = logged_run(cluster.mlflow_url, jobs, "registered-late")
    relay.mode = "refuse"
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    done = Outcome(status="succeeded", reason="Trained", summary=summary)
    jobs.end("registered-late", outcome=done)
    jobs.phase("registered-late", "Registering")
    until_past(body, 20)
    relay.mode = "forward"
    body = jobs.phase("registered-late", "Succeeded")
    assert body["status"]["result"]["registered"]["version"] == 1


def test_waiting_in_a_queue_takes_no_time(jobs: Namespace, subjects: Subjects):
    """As Kueue does it: the Job is suspended, let go when there is room, and sent back."""
    held_back: dict[str, str] = {}
    for kind in LIMITED:
        subjects.make(kind, "queued", activeDeadlineSeconds=10)
        eventually(lambda kind=kind: jobs.runs("queued", kind))
        (job,) = jobs.runs("queued", kind)
        held_back[kind] = job["metadata"]["name"]
        jobs.patch("Job", held_back[kind], {"spec": {"suspend": True}})
    held = time.monotonic()

    def waits(body: dict[str, Any]) -> bool:
        if phase_of(body) != "Queued":
            return False
        said = body["status"].get("candidates") or [{"message": condition(body, "Running")[2]}]
        return "spec.suspend is true" in said[0]["message"]

    for kind in LIMITED:
        jobs.until(kind, "queued", waits)
    eventually(lambda: time.monotonic() > held + 15)
    for kind in LIMITED:
        assert waits(jobs.get(kind, "queued"))
        jobs.patch("Job", held_back[kind], {"spec": {"suspend": False}})
    for kind in LIMITED:
        subjects.end(kind, subjects.running(kind, "queued"))
    for kind in LIMITED:
        body = subjects.done(kind, "queued")
        assert body["status"]["runTime"]["seconds"] < 10


def test_a_pod_that_waits_takes_no_time(jobs: Namespace):
    target = jobs.target(nodeSelector={"kubetune.io/process-node": "true", "gpu": "none"})
    jobs.create("ComputeTarget", "full", target)
    named = {"kind": "ComputeTarget", "name": "full"}
    jobs.job("unplaced", activeDeadlineSeconds=5, computeTargetRef=named)
    jobs.waits("FineTuneJob", "unplaced", "Unschedulable")
    waited = time.monotonic()
    eventually(lambda: time.monotonic() > waited + 8)
    assert condition(jobs.get("FineTuneJob", "unplaced"), "Ready")[1] == "Unschedulable"
    assert len(jobs.runs("unplaced")) == 1


def test_the_deadline_holds_while_no_operator_looks(
    jobs: Namespace, subjects: Subjects, operator: Operator
):
    for kind in LIMITED:
        subjects.make(kind, "unwatched", activeDeadlineSeconds=12)
    for kind in LIMITED:
        jobs.until(kind, "unwatched", lambda o: phase_of(o) == "Running")
    wanted = 12 + elapsed(jobs, "unwatched")
    eventually(lambda: abs((deadline_of(jobs, "unwatched") or 0) - wanted) <= 1)
    with operator.stopped():
        for kind in LIMITED:
            name = only_run(jobs, "unwatched", kind)["metadata"]["name"]
            ended = jobs.until("Job", name, lambda job: condition_of(job, "Failed"))
            assert condition_of(ended, "Failed") == "DeadlineExceeded"
    for kind in LIMITED:
        body = jobs.until(kind, "unwatched", lambda o: phase_of(o) in ("Succeeded", "Failed"))
        assert condition(body, "Failed")[1] == "DeadlineExceeded"
        assert len(jobs.runs("unwatched", kind)) == 1


def test_a_deadline_that_is_edited_reaches_the_run(jobs: Namespace):
    jobs.job("edited", activeDeadlineSeconds=3000)
    jobs.phase("edited", "Running")
    for seconds in (6000, 500, None):
        jobs.patch("FineTuneJob", "edited", {"spec": {"activeDeadlineSeconds": seconds}})
        wanted = None if seconds is None else seconds + elapsed(jobs, "edited")

        def follows(wanted: float | None = wanted) -> bool:
            found = deadline_of(jobs, "edited")
            return found is None if wanted is None else abs((found or 0) - wanted) <= 1

        eventually(follows)
    jobs.patch("FineTuneJob", "edited", {"spec": {"activeDeadlineSeconds": 1}})
    body = jobs.phase("edited", "Failed")
    assert condition(body, "Failed")[1] == "DeadlineExceeded"


def test_suspension_keeps_what_is_left_of_an_evaluation(jobs: Namespace, subjects: Subjects):
    """Of 12 seconds some are used, then it rests for longer than all of them."""
    subjects.make("Evaluation", "paused", activeDeadlineSeconds=12)
    subjects.running("Evaluation", "paused")
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 3)
    jobs.patch("Evaluation", "paused", {"spec": {"suspend": True}})
    body = jobs.until("Evaluation", "paused", lambda o: phase_of(o) == "Suspended")
    used = body["status"]["runTime"]["seconds"]
    assert 3 <= used < 12
    rests = time.monotonic()
    eventually(lambda: time.monotonic() > rests + 12 - used + 1)
    jobs.patch("Evaluation", "paused", {"spec": {"suspend": False}})
    subjects.running("Evaluation", "paused", attempt=2)
    body = jobs.until("Evaluation", "paused", lambda o: phase_of(o) in ("Succeeded", "Failed"))
    assert condition(body, "Failed")[1] == "DeadlineExceeded"


def test_suspension_keeps_what_is_left(jobs: Namespace):
    jobs.job("paused", activeDeadlineSeconds=4000)
    body = jobs.phase("paused", "Running")
    until_past(body, 3)
    jobs.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    body = jobs.phase("paused", "Suspended")
    used = body["status"]["runTime"]["seconds"]
    assert used >= 3
    jobs.patch("FineTuneJob", "paused", {"spec": {"suspend": False}})
    jobs.phase("paused", "Running")
    second = next(
        run for run in jobs.runs("paused") if run["metadata"]["labels"][names.ATTEMPT] == "2"
    )
    assert second["metadata"]["annotations"][names.LIMIT] is not None
    jobs.end("paused", attempt=2)
    body = jobs.phase("paused", "Succeeded")
    assert body["status"]["runTime"]["seconds"] >= used


def test_a_limit_that_an_admin_sets_is_left_alone(jobs: Namespace):
    jobs.job("capped")
    jobs.phase("capped", "Running")
    name = only_run(jobs, "capped")["metadata"]["name"]
    jobs.patch("Job", name, {"spec": {"activeDeadlineSeconds": 5000}})
    jobs.patch("FineTuneJob", "capped", {"metadata": {"labels": {"look": "again"}}})
    jobs.end("capped")
    jobs.phase("capped", "Succeeded")
    assert deadline_of(jobs, "capped") == 5000


def condition_of(job: dict[str, Any], kind: str) -> str:
    """The reason of a true condition of a Job, empty without one."""
    for item in job["status"].get("conditions") or ():
        if item["type"] == kind and item["status"] == "True":
            return str(item["reason"])
    return ""

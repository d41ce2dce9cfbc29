"""waitingDeadlineSeconds and queueDeadlineSeconds end what waits or queues, and no run."""

from typing import Any

import pytest
from kubetune.api import JsonObject

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import Subjects
from tests.cluster.support import eventually
from tests.cluster.test_operator_refusals import no_jobs

pytestmark = pytest.mark.cluster

LIMITED = ("FineTuneJob", "Evaluation")
LONG = 3600
"""A limit that is over only once a test has lowered it."""


@pytest.fixture(scope="module")
def subjects(module_space: Namespace) -> Subjects:
    return Subjects(module_space, module_space.scripted_target("all-scripted"))


@pytest.fixture(scope="module")
def full(module_space: Namespace) -> Subjects:
    """On a target whose runs no node takes."""
    places = {"kubetune.io/process-node": "true", "gpu": "none"}
    return Subjects(module_space, module_space.scripted_target("full", nodeSelector=places))


def limit(jobs: Namespace, kind: str, name: str, **limits: int | None) -> None:
    jobs.patch(kind, name, {"spec": limits})


def clock(body: JsonObject, name: str) -> JsonObject:
    return (body.get("status") or {}).get(name) or {}


def failed(jobs: Namespace, kind: str, name: str, reason: str) -> JsonObject:
    """The object once it has failed, which it must have for this reason."""
    body = jobs.until(kind, name, lambda o: phase_of(o) in ("Succeeded", "Failed"))
    assert condition(body, "Failed")[:2] == ("True", reason), body["status"]
    assert condition(body, "Stalled")[0] == "True"
    return body


@pytest.mark.parametrize("kind", LIMITED)
def test_a_missing_dataset_is_waited_for_no_longer(
    jobs: Namespace, subjects: Subjects, operator: Operator, kind: str
):
    """Another reason to wait and another operator don't begin the clock anew."""
    name, rows = "waits", f"rows-of-{kind.lower()}"
    subjects.make(kind, name, datasetRef={"name": rows}, waitingDeadlineSeconds=LONG)
    jobs.waits(kind, name, "DatasetMissing")
    since = clock(jobs.get(kind, name), "waitTime")
    assert since["seconds"] == 0
    source = {"configMap": {"name": rows, "key": "rows.jsonl"}}
    jobs.create("Dataset", rows, {"source": source})
    jobs.waits(kind, name, "DatasetNotReady")
    with operator.crashed():
        limit(jobs, kind, name, waitingDeadlineSeconds=LONG + 1)
    body = jobs.until(kind, name, lambda o: condition(o, "Ready")[1] == "DatasetNotReady")
    assert clock(body, "waitTime") == since
    limit(jobs, kind, name, waitingDeadlineSeconds=1)
    body = failed(jobs, kind, name, "WaitedTooLong")
    assert clock(body, "waitTime")["seconds"] >= 1
    message = condition(body, "Failed")[2]
    for part in (f"Dataset {rows}", "ConfigMap", "waitingDeadlineSeconds is 1"):
        assert part in message
    assert jobs.runs(name, kind) == []
    assert "queueTime" not in body["status"]


def test_what_comes_in_time_is_used(jobs: Namespace, subjects: Subjects):
    subjects.make("FineTuneJob", "served", datasetRef={"name": "late"}, waitingDeadlineSeconds=LONG)
    jobs.waits("FineTuneJob", "served", "DatasetMissing")
    rows = jobs.get("Dataset", "rows")["spec"]
    jobs.create("Dataset", "late", rows)
    body = jobs.phase("served", "Running")
    assert "since" not in clock(body, "waitTime")
    # What was waited for is no reason any more, however little may be waited from now on.
    limit(jobs, "FineTuneJob", "served", waitingDeadlineSeconds=1)
    subjects.end("FineTuneJob", subjects.running("FineTuneJob", "served"))
    subjects.done("FineTuneJob", "served")


def test_suspension_is_no_wait(jobs: Namespace, subjects: Subjects):
    none = {"name": "never"}
    subjects.make("FineTuneJob", "rests", datasetRef=none, waitingDeadlineSeconds=LONG)
    jobs.waits("FineTuneJob", "rests", "DatasetMissing")
    jobs.patch("FineTuneJob", "rests", {"spec": {"suspend": True}})
    body = jobs.phase("rests", "Suspended")
    assert "since" not in clock(body, "waitTime")
    limit(jobs, "FineTuneJob", "rests", waitingDeadlineSeconds=1)
    jobs.until("FineTuneJob", "rests", lambda o: condition(o, "Ready")[1] == "Suspended")
    jobs.patch("FineTuneJob", "rests", {"spec": {"suspend": False}})
    failed(jobs, "FineTuneJob", "rests", "WaitedTooLong")


@pytest.mark.parametrize("kind", LIMITED)
def test_a_target_that_refuses_is_waited_for_no_longer(
    jobs: Namespace, subjects: Subjects, kind: str
):
    with no_jobs(jobs):
        subjects.make(kind, "refused", waitingDeadlineSeconds=LONG)
        jobs.waits(kind, "refused", "TargetRefused")
        assert "since" in clock(jobs.get(kind, "refused"), "waitTime")
        limit(jobs, kind, "refused", waitingDeadlineSeconds=1)
        body = failed(jobs, kind, "refused", "WaitedTooLong")
        assert "closed for the night" in condition(body, "Failed")[2]
    assert jobs.runs("refused", kind) == []


@pytest.mark.parametrize("kind", LIMITED)
def test_a_run_that_no_node_takes_is_taken_back(jobs: Namespace, full: Subjects, kind: str):
    full.make(kind, "queues", queueDeadlineSeconds=LONG)
    jobs.until(kind, "queues", lambda o: "No node fits" in condition(o, "Ready")[2])
    assert phase_of(jobs.get(kind, "queues")) == "Queued"
    assert "since" in clock(jobs.get(kind, "queues"), "queueTime")
    limit(jobs, kind, "queues", queueDeadlineSeconds=1)
    body = failed(jobs, kind, "queues", "QueuedTooLong")
    assert clock(body, "queueTime")["seconds"] >= 1
    assert "queueDeadlineSeconds is 1" in condition(body, "Failed")[2]
    eventually(lambda: jobs.runs("queues", kind) == [])
    eventually(lambda: jobs.children("Pod", "queues", kind) == [])


def held_back(jobs: Namespace, kind: str, name: str) -> str:
    """The Job of an object once a queue holds it back, as Kueue does."""
    eventually(lambda: jobs.runs(name, kind))
    (job,) = jobs.runs(name, kind)
    run: str = job["metadata"]["name"]
    jobs.patch("Job", run, {"spec": {"suspend": True}})

    def waits(body: dict[str, Any]) -> bool:
        said = body["status"].get("candidates") or [{"message": condition(body, "Running")[2]}]
        return phase_of(body) == "Queued" and "spec.suspend is true" in said[0]["message"]

    jobs.until(kind, name, waits)
    return run


@pytest.mark.parametrize("kind", LIMITED)
def test_a_queue_gets_its_job_back(
    jobs: Namespace, subjects: Subjects, operator: Operator, kind: str
):
    """The limit was over while no operator ran, and the queue held the run back all the time."""
    subjects.make(kind, "held", queueDeadlineSeconds=LONG)
    held_back(jobs, kind, "held")
    with operator.crashed():
        limit(jobs, kind, "held", queueDeadlineSeconds=1)
    failed(jobs, kind, "held", "QueuedTooLong")
    eventually(lambda: jobs.runs("held", kind) == [])


@pytest.mark.parametrize("kind", LIMITED)
def test_who_begins_in_that_moment_goes_on(
    jobs: Namespace, subjects: Subjects, operator: Operator, kind: str
):
    subjects.make(kind, "let-go", queueDeadlineSeconds=LONG)
    run = held_back(jobs, kind, "let-go")
    began = clock(jobs.get(kind, "let-go"), "queueTime")
    with operator.crashed():
        jobs.patch("Job", run, {"spec": {"suspend": False}})
        pod = subjects.running(kind, "let-go")
        limit(jobs, kind, "let-go", queueDeadlineSeconds=1)
    body = jobs.until(kind, "let-go", lambda o: condition(o, "Ready")[0] and phase_of(o))
    body = jobs.until(kind, "let-go", lambda o: phase_of(o) in ("Running", "Failed", "Stopping"))
    assert phase_of(body) == "Running"
    assert "since" not in clock(body, "queueTime"), began
    subjects.end(kind, pod)
    subjects.done(kind, "let-go")

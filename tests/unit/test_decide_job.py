"""The numbered states of a FineTuneJob: one table of named cases."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    CRASHED,
    NONE_FINISHED,
    NOW,
    REFUSED,
    TRACKED,
    TRAINED,
    ago,
    attempt,
    condition_of,
    job,
    kstatus,
    names,
    observed_job,
    resource,
    run,
    told,
    tried,
)
from kubetune.api import JsonObject
from kubetune.decide.fine_tune_job.observed import TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.targets.values import RunState

RUNNING = tried(attempt(1, "Running"))
SUSPEND: JsonObject = {"suspend": True}

NOT_ASKED = TrackerAnswers()


@dataclass
class Case:
    name: str
    because: str
    phase: str
    ready: tuple[str, str]
    status: JsonObject = field(default_factory=dict[str, Any])
    runs: list[RunState] = field(default_factory=list[RunState])
    spec: JsonObject = field(default_factory=dict[str, Any])
    actions: list[str] = field(default_factory=list[str])
    requeue: float | None = None
    running: tuple[str, str] | None = None
    verdict: str = "InProgress"
    answers: TrackerAnswers = NOT_ASKED


CASES = [
    Case(
        "4 suspended from the start",
        "nothing is asked, nothing is started",
        "Suspended",
        ("False", "Suspended"),
        spec=SUSPEND,
        running=("False", "Suspended"),
    ),
    Case(
        "4 suspended while it runs",
        "the run is stopped with grace",
        "Stopping",
        ("False", "Suspended"),
        RUNNING,
        [run(1, "running")],
        SUSPEND,
        ["StopRuns"],
        running=("False", "Suspended"),
    ),
    Case(
        "4 suspended and already stopping",
        "an order is given once",
        "Stopping",
        ("False", "Suspended"),
        RUNNING,
        [run(1, "stopping")],
        SUSPEND,
        running=("False", "Suspended"),
    ),
    Case(
        "4 suspended and stopped",
        "the run is gone",
        "Suspended",
        ("False", "Suspended"),
        tried(attempt(1, "Running"), phase="Stopping"),
        spec=SUSPEND,
        running=("False", "Suspended"),
    ),
    Case(
        "4 resumed before the run is gone",
        "two runs at once would write the same checkpoints",
        "Stopping",
        ("False", "Stopping"),
        tried(attempt(1, "Running"), phase="Stopping"),
        [run(1, "stopping")],
        running=("False", "Stopping"),
    ),
    Case(
        "4 resumed",
        "what was stopped goes on at once, as a new attempt",
        "Queued",
        ("False", "Queued"),
        tried(attempt(1, "Stopped"), phase="Suspended"),
        actions=["StartRun"],
        answers=NONE_FINISHED,
    ),
    Case(
        "4 resumed, and nobody asked yet",
        "it may have finished while it was stopped",
        "Queued",
        ("False", "SeekingResult"),
        tried(attempt(1, "Stopped"), phase="Suspended"),
        actions=["FindRun"],
        running=("False", "SeekingResult"),
        requeue=10,
    ),
    Case(
        "6 waits for a node",
        "the pod's reason answers why",
        "Queued",
        ("False", "Unschedulable"),
        RUNNING,
        [run(1, "pending", reason="Unschedulable", message="No node fits: no GPU")],
        running=("False", "Unschedulable"),
    ),
    Case(
        "6 runs",
        "the target tells of the end",
        "Running",
        ("False", "Started"),
        RUNNING,
        [run(1, "running")],
        running=("True", "Started"),
    ),
    Case(
        "6 runs, but an older attempt has failed",
        "the newest counts",
        "Running",
        ("False", "Started"),
        tried(attempt(1, "Failed"), attempt(2, "Running")),
        [run(1, "failed", CRASHED), run(2, "running")],
        running=("True", "Started"),
    ),
    Case(
        "6 runs, and the operator has forgotten it",
        "a crash after the start and before the status: it is adopted",
        "Running",
        ("False", "Started"),
        {},
        [run(1, "running")],
        running=("True", "Started"),
    ),
    Case(
        "7 has succeeded",
        "nobody asked for a version",
        "Succeeded",
        ("True", "Succeeded"),
        RUNNING,
        [run(1, "succeeded", TRAINED)],
        running=("False", "Succeeded"),
        verdict="Current",
    ),
    Case(
        "7 has failed",
        "another attempt may succeed, after a pause",
        "Queued",
        ("False", "Retrying"),
        RUNNING,
        [run(1, "failed", CRASHED)],
        requeue=10,
        running=("False", "Retrying"),
    ),
    Case(
        "7 has failed, and the pause is over",
        "",
        "Queued",
        ("False", "Queued"),
        tried(attempt(1, "Failed", endTime=ago(10))),
        [run(1, "failed", CRASHED)],
        actions=["StartRun"],
        answers=NONE_FINISHED,
    ),
    Case(
        "7 has failed for good",
        "the runner says that another attempt would fail alike",
        "Failed",
        ("False", "RowShape"),
        RUNNING,
        [run(1, "failed", REFUSED)],
        running=("False", "RowShape"),
        verdict="Failed",
    ),
    Case(
        "7 has failed too often",
        "its last reason is the job's",
        "Failed",
        ("False", "OutOfMemory"),
        RUNNING,
        [run(1, "failed", CRASHED)],
        {"backoffLimit": 0},
        running=("False", "OutOfMemory"),
        verdict="Failed",
    ),
    Case(
        "7 was lost too often",
        "no run told a reason",
        "Failed",
        ("False", "BackoffLimitExceeded"),
        RUNNING,
        [],
        {"backoffLimit": 0},
        running=("False", "BackoffLimitExceeded"),
        verdict="Failed",
        answers=NONE_FINISHED,
    ),
    Case(
        "7 was lost too often, and the tracking server is away",
        "it may have finished before it was lost",
        "Queued",
        ("False", "TrackingUnreachable"),
        RUNNING,
        [],
        {"backoffLimit": 0},
        ["FindRun"],
        running=("False", "TrackingUnreachable"),
        requeue=10,
        answers=TrackerAnswers(tracking_error="no answer"),
    ),
    Case(
        "7 was lost",
        "somebody deleted its Job: it counts as failed",
        "Queued",
        ("False", "Retrying"),
        RUNNING,
        requeue=10,
        running=("False", "Retrying"),
    ),
    Case(
        "7 was preempted",
        "it is nobody's fault: at once, and it doesn't count",
        "Queued",
        ("False", "Queued"),
        RUNNING,
        [run(1, "preempted", reason="Disrupted")],
        {"backoffLimit": 0},
        ["StartRun"],
        answers=NONE_FINISHED,
    ),
    Case(
        "8 submitted", "all inputs are there", "Queued", ("False", "Queued"), actions=["StartRun"]
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_state(case: Case) -> None:
    given = job(case.spec, status=case.status)
    observed = observed_job(given, runs=case.runs, answers=case.answers)
    decision = decide(observed, NOW)
    status = decision.status or {}
    assert status["phase"] == case.phase, case.because
    assert condition_of(status, "Ready") == case.ready, case.because
    assert condition_of(status, "Running") == case.running, case.because
    assert names(decision) == case.actions, case.because
    assert decision.requeue_after == case.requeue, case.because
    assert kstatus(status, 1) == case.verdict


def test_pause_between_attempts_grows_to_six_minutes() -> None:
    pauses: list[float | None] = []
    for failed in range(1, 8):
        items = [attempt(n, "Failed", endTime=ago(0)) for n in range(1, failed + 1)]
        observed = observed_job(job({"backoffLimit": 100}, status=tried(*items)))
        pauses.append(decide(observed, NOW).requeue_after)
    assert pauses == [10, 20, 40, 80, 160, 320, 360]


def test_unreadable_spec_stalls_and_keeps_the_rest() -> None:
    broken = resource("FineTuneJob", "tune", None, status=RUNNING)
    decision = decide(observed_job(broken), NOW)
    status = decision.status or {}
    assert condition_of(status, "Stalled") == ("True", "InvalidSpec")
    assert status["attempts"] == RUNNING["attempts"]
    assert decision.actions == ()


def test_run_that_succeeds_while_it_is_stopped_has_succeeded() -> None:
    runs = [run(1, "succeeded", TRAINED)]
    suspended = decide(observed_job(job(SUSPEND, status=RUNNING), runs=runs), NOW).status or {}
    assert suspended["phase"] == "Succeeded"


def test_outage_of_the_tracking_server_is_told_while_it_lasts() -> None:
    given = job(status=RUNNING)
    away = observed_job(
        given, runs=[run(1, "running")], answers=TrackerAnswers(tracking_error="away")
    )
    status = decide(away, NOW).status or {}
    assert status["phase"] == "Running", "training continues"
    assert condition_of(status, "TrackingAvailable") == ("False", "TrackingUnreachable")
    back = observed_job(job(status=status), runs=[run(1, "running")])
    assert condition_of(decide(back, NOW).status, "TrackingAvailable") is None


def test_progress_is_written_at_most_every_ten_seconds() -> None:
    observed = observed_job(job(status=RUNNING), runs=[run(1, "running")], tracked=TRACKED)
    first = decide(observed, NOW).status or {}
    assert first["progress"] == {
        "attempt": 1,
        "stage": "training",
        "step": 50,
        "totalSteps": 200,
        "percent": 25,
        "loss": "1.235",
        "etaSeconds": 200,
        "eta": "3m20s",
        "updatedAt": ago(0),
    }
    newer = replace(TRACKED, tags=TRACKED.tags | told(1, kubetune_step=60.0))
    observed = observed_job(job(status=first), runs=[run(1, "running")], tracked=newer)
    assert (decide(observed, NOW + timedelta(seconds=9)).status or {}) == first
    later = decide(observed, NOW + timedelta(seconds=10)).status or {}
    assert later["progress"]["step"] == 60

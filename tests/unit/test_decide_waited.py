"""waitingDeadlineSeconds and queueDeadlineSeconds: their clocks, and how they end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    CRASHED,
    NONE_FINISHED,
    NOW,
    REFUSED,
    TRAINED,
    ago,
    assert_fits,
    attempt,
    condition,
    condition_of,
    job,
    model,
    names,
    observed_job,
    run,
    tried,
)
from kubetune.api import JsonObject
from kubetune.decide.decision import StopRuns
from kubetune.decide.fine_tune_job.observed import TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.resources import TargetProblem
from kubetune.decide.target.refused import start_refused
from kubetune.decide.waited import give_up_refused
from kubetune.targets.errors import BackendError
from kubetune.targets.values import RunState

LIMIT = 60
REGISTRY: JsonObject = {"output": {"registry": {}}}


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def waits(seconds: int = 0, since: float = 0, **fields: Any) -> JsonObject:
    return {"waitTime": {"seconds": seconds, "since": ago(since)}} | fields


def unbegun(number: int, result: str = "Running") -> JsonObject:
    return {"number": number, "job": f"tune-{number}", "result": result}


def queues(*attempts: JsonObject, seconds: int = 0, since: float = 0, **fields: Any) -> JsonObject:
    told = {"seconds": seconds, "since": ago(since)}
    return tried(*(attempts or (unbegun(1),)), queueTime=told) | fields


def pending(number: int = 1, **fields: Any) -> RunState:
    given: JsonObject = {"reason": "Unschedulable", "message": "No node fits: 0/3", **fields}
    return run(number, "pending", started_at=None, **given)


@dataclass
class Case:
    name: str
    phase: str
    ready: tuple[str, str]
    actions: list[str]
    status: JsonObject
    runs: list[RunState] = field(default_factory=list[RunState])
    spec: JsonObject = field(default_factory=dict)
    around: JsonObject = field(default_factory=dict)
    after: float = 0
    """Seconds after NOW."""
    requeue: float | None = None
    wait: JsonObject | None = None
    """status.waitTime"""
    queue: JsonObject | None = None
    """status.queueTime"""


MISSING: JsonObject = {"model": None}
ORDERED = {"conditions": [condition("Running", "False", reason="QueuedTooLong")]}
NEW: JsonObject = {"fresh": True}
UNANSWERED = TrackerAnswers(tracking_error="no answer")
CASES = [
    Case(
        "the clock starts as something is missing",
        "Pending",
        ("False", "ModelMissing"),
        [],
        {},
        around=MISSING,
        requeue=60,
        wait={"seconds": 0, "since": ago(0)},
    ),
    Case(
        "another reason doesn't begin it anew",
        "Preparing",
        ("False", "ModelNotReady"),
        [],
        waits(20, 30),
        around={"model": model()},
        requeue=10,
        wait={"seconds": 20, "since": ago(30)},
    ),
    Case(
        "waited too long",
        "Failed",
        ("False", "WaitedTooLong"),
        [],
        waits(20),
        around=MISSING,
        after=40,
        wait={"seconds": 60},
    ),
    Case(
        "what is refused is waited for as well",
        "Failed",
        ("False", "WaitedTooLong"),
        [],
        waits(),
        spec={"hyperparameters": {"maxLength": 4096}},
        after=60,
        wait={"seconds": 60},
    ),
    Case(
        "what came in the last moment is used",
        "Queued",
        ("False", "Queued"),
        ["StartRun"],
        waits(),
        around=NEW,
        after=100,
        requeue=10,
        wait={"seconds": 0, "since": ago(0)},
    ),
    Case(
        "the registry is asked in the last moment",
        "Preparing",
        ("False", "SeekingIdentical"),
        ["FindIdentical"],
        waits(),
        spec=REGISTRY,
        around=NEW,
        after=100,
        requeue=10,
        wait={"seconds": 0, "since": ago(0)},
    ),
    Case(
        "and isn't waited for any longer",
        "Failed",
        ("False", "WaitedTooLong"),
        [],
        waits(),
        spec=REGISTRY,
        around={"answers": UNANSWERED} | NEW,
        after=100,
        wait={"seconds": 100},
    ),
    Case(
        "nor after an operator that asked before has ended",
        "Failed",
        ("False", "WaitedTooLong"),
        [],
        waits(),
        spec=REGISTRY,
        around={"answers": UNANSWERED, "started": None},
        after=100,
        wait={"seconds": 100},
    ),
    Case(
        "whatever was sent is looked up first",
        "Queued",
        ("False", "TrackingUnreachable"),
        ["FindRun"],
        waits(),
        around={"answers": UNANSWERED},
        after=100,
        requeue=10,
        wait={"seconds": 100},
    ),
    Case(
        "suspension isn't waiting",
        "Suspended",
        ("False", "Suspended"),
        [],
        waits(20, 30),
        spec={"suspend": True},
        wait={"seconds": 50},
    ),
    Case(
        "what was waited before it goes on afterwards",
        "Pending",
        ("False", "ModelMissing"),
        [],
        {"waitTime": {"seconds": 50}, "phase": "Suspended"},
        around=MISSING,
        after=500,
        requeue=10,
        wait={"seconds": 50, "since": ago(-500)},
    ),
    Case(
        "the pause after a failed attempt isn't waiting",
        "Queued",
        ("False", "Retrying"),
        [],
        tried(attempt(1, "Running")) | waits(50),
        runs=[run(1, "failed", CRASHED)],
        after=5,
        requeue=5,
        wait={"seconds": 55},
    ),
    Case(
        "nobody knows: nothing was sent there",
        "Failed",
        ("False", "WaitedTooLong"),
        [],
        waits(0, 60),
        around={"target_problem": TargetProblem("TargetUnreachable", "no answer"), "started": None},
        wait={"seconds": 60},
    ),
    Case(
        "a run that is seen to wait queues",
        "Queued",
        ("False", "Unschedulable"),
        [],
        waits(10, 5),
        runs=[pending()],
        requeue=60,
        wait={"seconds": 15},
        queue={"seconds": 0, "since": ago(0)},
    ),
    Case(
        "another reason to queue doesn't begin it anew",
        "Queued",
        ("False", "ImageUnavailable"),
        [],
        queues(seconds=20, since=30),
        runs=[pending(reason="ImageUnavailable")],
        requeue=10,
        queue={"seconds": 20, "since": ago(30)},
    ),
    Case(
        "queued too long: taken back unless it begins",
        "Stopping",
        ("False", "QueuedTooLong"),
        ["StopRuns"],
        queues(seconds=20),
        runs=[pending()],
        after=40,
        requeue=10,
        queue={"seconds": 20, "since": ago(0)},
    ),
    Case(
        "being taken back",
        "Stopping",
        ("False", "QueuedTooLong"),
        [],
        queues(since=70) | ORDERED,
        runs=[run(1, "stopping", started_at=None)],
        queue={"seconds": 70},
    ),
    Case(
        "it is gone",
        "Failed",
        ("False", "QueuedTooLong"),
        [],
        queues(since=70) | ORDERED,
        queue={"seconds": 70},
    ),
    Case(
        "it is gone, after more was allowed",
        "Queued",
        ("False", "Queued"),
        ["StartRun"],
        queues(since=70) | ORDERED,
        spec={"queueDeadlineSeconds": 600},
        around={"answers": NONE_FINISHED},
        requeue=60,
        wait={"seconds": 0, "since": ago(0)},
        queue={"seconds": 70},
    ),
    Case(
        "it has begun in that moment",
        "Running",
        ("False", "Started"),
        [],
        queues(since=70) | ORDERED,
        runs=[run(1, "running", started_at=NOW)],
        queue={"seconds": 70},
    ),
    Case(
        "it began while nobody looked",
        "Running",
        ("False", "Started"),
        [],
        queues(since=50),
        runs=[run(1, "running", started_at=at(-20))],
        after=500,
        queue={"seconds": 30},
    ),
    Case(
        "it has succeeded while nobody looked",
        "Succeeded",
        ("True", "Succeeded"),
        [],
        queues(since=50),
        runs=[run(1, "succeeded", TRAINED, started_at=at(-20))],
        after=500,
        queue={"seconds": 30},
    ),
    Case(
        "its own verdict counts first",
        "Failed",
        ("False", "RowShape"),
        [],
        queues(since=100) | ORDERED,
        runs=[run(1, "failed", REFUSED, started_at=at(-5))],
        queue={"seconds": 95},
    ),
    Case(
        "what a queue sends back queues again",
        "Queued",
        ("False", "Queued"),
        [],
        tried(attempt(1, "Running")) | {"queueTime": {"seconds": 45}},
        runs=[pending(reason="Queued")],
        requeue=15,
        queue={"seconds": 45, "since": ago(0)},
    ),
    Case(
        "another attempt may not queue for more",
        "Failed",
        ("False", "QueuedTooLong"),
        [],
        tried(attempt(1, "Running")) | {"queueTime": {"seconds": 60}},
        runs=[run(1, "failed", CRASHED)],
        around={"answers": NONE_FINISHED},
        queue={"seconds": 60},
    ),
    Case(
        "suspension isn't queueing",
        "Stopping",
        ("False", "Suspended"),
        ["StopRuns"],
        queues(since=20),
        runs=[pending()],
        spec={"suspend": True},
        requeue=None,
        queue={"seconds": 20},
    ),
    Case(
        "who stopped it in CML meant it",
        "Cancelled",
        ("False", "StoppedByHand"),
        [],
        queues(since=70),
        runs=[run(1, "stopped", started_at=None, reason="StoppedByHand")],
        queue={"seconds": 70},
    ),
    Case(
        "what we have had stopped there",
        "Failed",
        ("False", "QueuedTooLong"),
        [],
        queues(since=70) | ORDERED,
        runs=[run(1, "stopped", started_at=None, reason="StoppedByHand")],
        queue={"seconds": 70},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_limits(case: Case) -> None:
    spec = {"waitingDeadlineSeconds": LIMIT, "queueDeadlineSeconds": LIMIT} | case.spec
    around: JsonObject = {"runs": case.runs} | case.around
    given = observed_job(job(spec, status=dict(case.status)), **around)
    if "started" in case.around:
        assert "external" not in given.job.status, "nothing was sent yet"
    decision = decide(given, at(case.after))
    status: Any = decision.status or {}
    assert status["phase"] == case.phase
    assert condition_of(status, "Ready") == case.ready
    assert names(decision) == case.actions
    assert decision.requeue_after == case.requeue
    assert (status.get("waitTime"), status.get("queueTime")) == (case.wait, case.queue)
    assert_fits("FineTuneJob", status)


def test_only_what_has_not_begun_is_taken_back() -> None:
    given = observed_job(job({"queueDeadlineSeconds": 60}, status=queues()), runs=[pending()])
    assert decide(given, at(60)).actions == (StopRuns(given.run_key, unbegun=True),)


def test_the_message_says_what_it_waited_for_and_how_long() -> None:
    given = observed_job(job({"waitingDeadlineSeconds": 60}, status=waits()), dataset=None)
    failure = (decide(given, at(60)).status or {})["failure"]
    assert failure["reason"] == "WaitedTooLong"
    assert failure["retryable"]
    for part in ("waited 60 s", "waitingDeadlineSeconds is 60", "Dataset tickets to be created"):
        assert part in failure["message"]
    held = observed_job(job({"queueDeadlineSeconds": 60}, status=queues()), runs=[pending()])
    said = next(
        item["message"]
        for item in (decide(held, at(60)).status or {})["conditions"]
        if item["type"] == "Ready"
    )
    for part in ("queued 60 s", "queueDeadlineSeconds is 60", "No node fits"):
        assert part in said


def test_an_input_that_comes_and_goes_does_not_reset_the_clock() -> None:
    """Each second it is there, and its run is refused; then it is gone again."""
    status: Any = {}
    spec = {"waitingDeadlineSeconds": 20}
    for second in range(0, 20, 2):
        status = decide(observed_job(job(spec, status=status), model=None), at(second)).status
        assert status["phase"] == "Pending", second
        status = decide(observed_job(job(spec, status=status), **NEW), at(second + 1)).status
        assert status["phase"] == "Queued", second
        told = start_refused(status, BackendError("QuotaExceeded", "full", retryable=True), 1, NOW)
        status = told[0]
    status = decide(observed_job(job(spec, status=status), model=None), at(20)).status
    assert condition_of(status, "Failed") == ("True", "WaitedTooLong")


def test_a_preemption_that_repeats_does_not_reset_the_clock() -> None:
    status: Any = queues()
    spec = {"queueDeadlineSeconds": 10}
    for second in range(0, 20, 2):
        held = observed_job(job(spec, status=status), runs=[pending()])
        status = decide(held, at(second)).status
        assert status["phase"] == "Queued", second
        runs = [run(1, "running", started_at=at(second + 1))]
        status = decide(observed_job(job(spec, status=status), runs=runs), at(second + 1)).status
    status = decide(observed_job(job(spec, status=status), runs=[pending()]), at(21)).status
    assert condition_of(status, "Running") == ("False", "QueuedTooLong")


@pytest.mark.parametrize("retryable", [True, False])
def test_a_start_that_is_refused_is_waited_for_no_longer(retryable: bool) -> None:
    error = BackendError("QuotaExceeded", "no room", retryable=retryable)
    spec = {"waitingDeadlineSeconds": 60}

    def after(seconds: float, error: BackendError = error) -> tuple[Any, float | None]:
        found = decide(observed_job(job(spec, status=waits()), **NEW), at(seconds)).status
        assert found is not None
        told = start_refused(found, error, 1, at(seconds))
        reason, said = error.reason, str(error)
        return give_up_refused(told, spec, reason, said, 1, at(seconds))

    status, again = after(55)
    assert (status["phase"], again) == ("Pending", 5)
    status, again = after(60)
    assert (status["phase"], again) == ("Failed", None)
    assert status["waitTime"] == {"seconds": 60}
    assert "no room" in status["failure"]["message"]
    assert_fits("FineTuneJob", status)
    unsure = BackendError("SubmissionUnknown", "no answer", retryable=True)
    assert after(60, unsure)[0]["phase"] == "Pending", "something may have started"


def test_what_is_suspended_counts_nothing_while_nobody_answers() -> None:
    problem = TargetProblem("TargetUnreachable", "no answer")
    held = queues(seconds=5, since=10, phase="Queued")
    given = observed_job(job({"suspend": True}, status=held), target_problem=problem)
    status = decide(given, NOW).status or {}
    assert status["queueTime"] == {"seconds": 15}

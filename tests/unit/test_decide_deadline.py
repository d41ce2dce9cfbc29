"""activeDeadlineSeconds: the clock of runs, and what counts before it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from backend_objects import NOW as JOB_STARTED
from builders import (
    CRASHED,
    NONE_FINISHED,
    NOW,
    REFUSED,
    TRACKED,
    TRAINED,
    ago,
    assert_fits,
    attempt,
    condition,
    condition_of,
    job,
    names,
    observed_job,
    run,
    target,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import RunTimeDict
from kubetune.decide.deadline import Span, read_clock, spans
from kubetune.decide.decision import LimitRuns, StartRun, parse_time, rfc3339
from kubetune.decide.fine_tune_job.observed import TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.targets.kubernetes.job_limits import WAITING_SECONDS, Limit, new_limit
from kubetune.targets.values import RunState

RUNNING = tried(attempt(1, "Running", startTime=ago(30)))


def used(seconds: int) -> JsonObject:
    return {"runTime": {"seconds": seconds, "countedUntil": ago(60)}}


@dataclass
class Case:
    name: str
    phase: str
    ready: tuple[str, str]
    actions: list[str]
    status: JsonObject = field(default_factory=lambda: dict(RUNNING))
    runs: list[RunState] = field(default_factory=list[RunState])
    deadline: int = 60
    spec: JsonObject = field(default_factory=dict)
    after: float = 0
    """Seconds after NOW."""
    requeue: float | None = None


LATE = run(1, "failed", reason="DeadlineExceeded", ended_at=NOW + timedelta(seconds=30))
CASES = [
    Case(
        "ahead: the Job gets what is left",
        "Running",
        ("False", "Started"),
        ["LimitRuns"],
        runs=[run(1, "running")],
        requeue=30,
    ),
    Case(
        "over: the Job ends its run",
        "Stopping",
        ("False", "DeadlineExceeded"),
        ["LimitRuns"],
        runs=[run(1, "running")],
        after=31,
        requeue=9,
    ),
    Case(
        "over, and the Job did not end it",
        "Stopping",
        ("False", "DeadlineExceeded"),
        ["StopRuns"],
        runs=[run(1, "running")],
        after=41,
        requeue=1,
    ),
    Case(
        "over, but it has ended and Kubernetes doesn't know it yet",
        "Running",
        ("False", "Started"),
        ["LimitRuns"],
        runs=[run(1, "running", reason="Ending")],
        after=31,
        requeue=9,
    ),
    Case("the Job's verdict", "Failed", ("False", "DeadlineExceeded"), [], runs=[LATE], after=32),
    Case(
        "the Job's verdict by a deadline that was put off meanwhile",
        "Queued",
        ("False", "Retrying"),
        [],
        runs=[LATE],
        deadline=600,
        after=32,
        requeue=8,
    ),
    Case(
        "succeeded in time, seen a day later",
        "Succeeded",
        ("True", "Succeeded"),
        [],
        runs=[run(1, "succeeded", TRAINED)],
        after=86400,
    ),
    Case(
        "succeeded in the grace after its time",
        "Succeeded",
        ("True", "Succeeded"),
        [],
        runs=[run(1, "succeeded", TRAINED)],
        deadline=10,
    ),
    Case(
        "its own verdict counts before the clock's",
        "Failed",
        ("False", "RowShape"),
        [],
        runs=[run(1, "failed", REFUSED)],
        deadline=10,
    ),
    Case(
        "no time for another attempt",
        "Failed",
        ("False", "DeadlineExceeded"),
        [],
        runs=[run(1, "failed", CRASHED)],
        deadline=30,
    ),
    Case(
        "attempts are added up",
        "Running",
        ("False", "Started"),
        ["LimitRuns"],
        status=tried(attempt(1, "Failed"), attempt(2, "Running", startTime=ago(30))) | used(25),
        runs=[run(2, "running")],
        requeue=5,
    ),
    Case(
        "waiting takes no time",
        "Queued",
        ("False", "Queued"),
        ["LimitRuns"],
        status=tried(attempt(1, "Running", startTime=None)),
        runs=[run(1, "pending", started_at=None, reason="Queued")],
        after=86400,
        requeue=6 * 3600,
    ),
    Case(
        "nor does suspension",
        "Suspended",
        ("False", "Suspended"),
        [],
        status=tried(attempt(1, "Stopped"), phase="Suspended") | used(50),
        spec={"suspend": True},
        after=86400,
    ),
    Case(
        "what is left goes on afterwards",
        "Queued",
        ("False", "Queued"),
        ["StartRun"],
        status=tried(attempt(1, "Stopped"), phase="Suspended") | used(50),
        after=86400,
    ),
    Case(
        "lowered below what was used while it waits",
        "Stopping",
        ("False", "DeadlineExceeded"),
        ["StopRuns"],
        status=tried(attempt(1, "Failed"), attempt(2, "Running", startTime=None)) | used(50),
        runs=[run(2, "pending", started_at=None)],
        deadline=40,
        requeue=6 * 3600,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_deadline(case: Case) -> None:
    spec = {"activeDeadlineSeconds": case.deadline} | case.spec
    around = {"runs": case.runs, "answers": NONE_FINISHED}
    given = observed_job(job(spec, status=case.status), **around)
    decision = decide(given, NOW + timedelta(seconds=case.after))
    status = decision.status or {}
    assert status["phase"] == case.phase
    assert condition_of(status, "Ready") == case.ready
    assert names(decision) == case.actions
    assert decision.requeue_after == case.requeue
    assert_fits("FineTuneJob", status)


def test_an_attempt_gets_what_is_left() -> None:
    status = tried(attempt(1, "Stopped"), phase="Suspended") | used(50)
    given = job({"activeDeadlineSeconds": 60}, status=status)
    decision = decide(observed_job(given, answers=NONE_FINISHED), NOW)
    (start,) = decision.actions
    assert isinstance(start, StartRun)
    assert start.request.deadline_seconds == 10


@pytest.mark.parametrize("limited", [True, False])
def test_a_deadline_that_is_taken_away_frees_the_run(limited: bool) -> None:
    runs = [run(1, "running", limited=limited)]
    decision = decide(observed_job(job(status=RUNNING), runs=runs), NOW)
    assert decision.actions == ((LimitRuns("abcdef0123456789", None, NOW),) if limited else ())


IN_CML: JsonObject = {
    "kubernetes": None,
    "cml": {
        "url": "https://cml.example",
        "project": "p",
        "apiKeySecretRef": {"name": "key"},
        "runtime": {"kernel": "Python 3.11"},
    },
}


def in_cml(runs: list[RunState], deadline: int = 60, since: float = 30, **spec: Any) -> Any:
    seen = condition("Running", lastTransitionTime=ago(since))
    given = job({"activeDeadlineSeconds": deadline} | spec, status=RUNNING | {"conditions": [seen]})
    return observed_job(given, runs=runs, target=target(**IN_CML), answers=NONE_FINISHED)


@pytest.mark.parametrize(("left", "asked"), [(LATE, True), (replace(LATE, exit_code=75), False)])
def test_who_went_unseen_at_the_deadline_may_have_finished(left: RunState, asked: bool) -> None:
    """Its pod is gone with the word that it left: the tracking server may know more."""
    given = job({"activeDeadlineSeconds": 60}, status=dict(RUNNING))
    late = at(32)
    decision = decide(observed_job(given, runs=[left]), late)
    assert names(decision) == (["FindRun"] if asked else [])
    assert (decision.status or {})["phase"] == ("Queued" if asked else "Failed")
    done = replace(TRACKED, tags={"kubetune.phase": "succeeded"})
    found = TrackerAnswers(run=done, run_sought=True)
    after = decide(observed_job(given, runs=[left], answers=found), late).status or {}
    assert after["phase"] == ("Succeeded" if asked else "Failed")


def test_in_cml_the_operator_stops_a_run_and_waits_for_its_end() -> None:
    late = NOW + timedelta(seconds=31)
    decision = decide(in_cml([run(1, "running")]), late)
    assert names(decision) == ["StopRuns"]
    assert (decision.status or {})["phase"] == "Stopping"
    behind = [run(1, "running", started_at=NOW - timedelta(hours=1))]
    assert names(decide(in_cml(behind), NOW)) == [], "its clock is behind ours"
    stopped = [run(1, "stopped", reason="StoppedByHand", ended_at=late)]
    assert condition_of(decide(in_cml(stopped), late).status, "Failed") == (
        "True",
        "DeadlineExceeded",
    )
    done = decide(in_cml([run(1, "succeeded", TRAINED)]), late).status or {}
    assert done["phase"] == "Succeeded"


@pytest.mark.parametrize(("deadline", "reason"), [(30, "DeadlineExceeded"), (600, "TimedOut")])
def test_a_run_that_cml_timed_out(deadline: int, reason: str) -> None:
    decision = decide(in_cml([run(1, "failed", reason="TimedOut")], deadline, backoffLimit=0), NOW)
    assert condition_of(decision.status, "Failed") == ("True", reason)


# --- the clock


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("counted", "given", "seconds"),
    [
        (None, [], 0),
        (None, [(0, 10)], 10),
        (None, [(0, 10), (5, 20)], 20),
        (None, [(0, 10), (15, 20)], 15),
        (None, [(40, None)], 10),
        (None, [(0, 10), (40, None)], 20),
        (None, [(5, None), (0, 10)], 50),
        ((7, 10), [(0, 10)], 7),
        ((7, 10), [(5, 20)], 17),
        ((7, 10), [(5, None)], 47),
        (None, [(0.4, 10.9)], 10),
    ],
)
def test_the_clock(
    counted: tuple[int, int] | None, given: list[tuple[float, float | None]], seconds: float
) -> None:
    before: RunTimeDict | None = (
        {"seconds": counted[0], "countedUntil": rfc3339(at(counted[1]))} if counted else None
    )
    found = [Span(at(start), at(end) if end is not None else None) for start, end in given]
    clock = read_clock(before, found, at(50))
    assert clock.used == seconds
    # Looking again changes nothing.
    assert read_clock(clock.counted, found, at(50)) == clock


def test_a_run_that_a_queue_sends_back_ran_until_then() -> None:
    known: Any = [attempt(1, "Running", startTime=ago(100))]
    sent_back = run(1, "pending", started_at=None, waiting_since=NOW - timedelta(seconds=40))
    assert spans([sent_back], known, NOW) == [Span(at(-100), at(-40))]
    observed = observed_job(job(status=tried(*known)), runs=[sent_back])
    status = decide(observed, NOW).status or {}
    assert status["runTime"]["seconds"] == 60
    assert "startTime" not in status["attempts"][0]
    again = decide(observed_job(job(status=status), runs=[sent_back]), at(1000)).status or {}
    assert again["runTime"]["seconds"] == 60


def test_a_run_that_is_gone_ran_until_that_is_seen() -> None:
    status = decide(observed_job(job({"suspend": True}, status=RUNNING)), NOW).status or {}
    assert status["runTime"] == {"seconds": 30, "countedUntil": ago(0)}


# --- the Job's own limit


def limited(seconds: int | None, started: bool = True) -> JsonObject:
    note = {} if seconds is None else {"kubetune.io/active-deadline-seconds": str(seconds)}
    status = {"startTime": JOB_STARTED} if started else {}
    return {"metadata": {"annotations": note}, "status": status}


DAY = int(WAITING_SECONDS)


@pytest.mark.parametrize(
    ("job", "left", "after", "started", "wanted"),
    [
        (limited(60), 30, 40, True, Limit(70)),
        (limited(70), 30, 40, True, None),
        (limited(70), 30, 41, True, None),
        (limited(None), 30, 0, True, Limit(30)),
        (limited(60), 60, 5, False, Limit(65 + DAY)),
        (limited(65 + DAY), 60, 3600, False, None),
        (limited(65 + DAY), 60, DAY, False, Limit(60 + 2 * DAY)),
        (limited(60, started=False), 60, 3600, False, None),
        (limited(60), None, 5, True, Limit(None)),
        (limited(None), None, 5, True, None),
        (limited(60), -20, 10, True, Limit(10)),
    ],
)
def test_the_limit_of_a_job(
    job: JsonObject, left: float | None, after: float, started: bool, wanted: Limit | None
) -> None:
    began = parse_time(JOB_STARTED)
    assert began is not None
    assert new_limit(job, left, began + timedelta(seconds=after), started=started) == wanted


def test_who_ordered_the_stop_is_known_when_the_tracking_server_has_answered() -> None:
    """The clock of the workspace may show that no time has passed."""
    late = NOW + timedelta(seconds=31)
    stopping = decide(in_cml([run(1, "running")]), late).status or {}
    again = decide(
        observed_job(
            job({"activeDeadlineSeconds": 60}, status=stopping),
            runs=[run(1, "running", started_at=NOW - timedelta(hours=1))],
            target=target(**IN_CML),
        ),
        late + timedelta(seconds=1),
    )
    assert names(again) == ["StopRuns"], "the stop may not have arrived"
    assert condition_of(again.status, "Running") == ("False", "DeadlineExceeded")
    stopped = run(1, "stopped", reason="StoppedByHand", started_at=NOW, ended_at=NOW)
    asking = observed_job(
        job({"activeDeadlineSeconds": 60}, status=stopping),
        runs=[stopped],
        target=target(**IN_CML),
    )
    asked = decide(asking, late)
    assert names(asked) == ["FindRun"]
    answered = observed_job(
        job({"activeDeadlineSeconds": 60}, status=asked.status),
        runs=[stopped],
        target=target(**IN_CML),
        answers=NONE_FINISHED,
    )
    assert condition_of(decide(answered, late).status, "Failed") == ("True", "DeadlineExceeded")

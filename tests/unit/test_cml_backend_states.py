"""What a job run of CML tells about an attempt."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cml_objects import NOW, ago, run
from hypothesis import given
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.clients.cml_models import Job, JobRun, UsageResponse
from kubetune.targets.cml.states import (
    Ending,
    Limits,
    has_ended,
    is_active,
    is_live,
    numbered,
    run_state,
    status_word,
    usage_row,
)
from kubetune.targets.values import RunState

LIMITS = Limits(scheduling=timedelta(seconds=600), unknown=timedelta(seconds=300))
CRASHED = Outcome(status="failed", reason="DiskFull", message="no space left", retryable=True)
INTERRUPTED = Outcome(status="interrupted", reason="Interrupted", retryable=True)
TRAINED = Outcome(status="succeeded", reason="Trained")
NEVER = datetime(1, 1, 1, tzinfo=UTC)


OPTIONS = ("unknown_since", "given_up", "unexplained", "ordered")


def state(status: str | None, ending: Ending | None = None, **fields: Any) -> RunState:
    """The state of attempt 1; fields of the run, or options of ``run_state``."""
    options = {name: fields.pop(name) for name in OPTIONS if name in fields}
    return run_state(
        1, run(status, **fields), {"jobId": "j"}, NOW, LIMITS, ending=ending, **options
    )


@pytest.mark.parametrize(
    ("status", "phase", "reason"),
    [
        ("ENGINE_SCHEDULING", "pending", "Queued"),
        ("ENGINE_STARTING", "pending", "PodPending"),
        ("ENGINE_RUNNING", "running", "Started"),
        ("ENGINE_STOPPING", "stopping", "Stopping"),
        ("ENGINE_SUCCEEDED", "succeeded", ""),
        ("ENGINE_FAILED", "failed", "RunFailed"),
        ("ENGINE_STOPPED", "stopped", "StoppedByHand"),
        ("ENGINE_TIMEDOUT", "failed", "TimedOut"),
        ("ENGINE_UNKNOWN", "running", "StatusUnknown"),
        ("ENGINE_HIBERNATING", "running", "StatusUnknown"),
        ("", "running", "StatusUnknown"),
        (None, "running", "StatusUnknown"),
        ("succeeded", "succeeded", ""),
        ("running", "running", "Started"),
        ("timedout", "failed", "TimedOut"),
        (" Engine_Failed ", "failed", "RunFailed"),
    ],
)
def test_statuses(status: str | None, phase: str, reason: str) -> None:
    found = state(status)
    assert (found.phase, found.reason) == (phase, reason)
    assert found.external == {"jobId": "j", "runId": "run-1"}


@given(st.text(max_size=40))
def test_no_status_that_nobody_knows_is_an_end(status: str) -> None:
    known = ("SUCCEEDED", "FAILED", "STOPPED", "TIMEDOUT", "SKIPPED")
    word = status_word(run(status))
    assert is_active(run(status)) is (word not in known)
    assert has_ended(run(status)) is (word in known[:-1])
    if word not in known:
        assert state(status).phase in ("pending", "running", "stopping")


def test_a_run_that_is_skipped_never_was() -> None:
    assert not is_active(run("ENGINE_SKIPPED"))
    assert not is_live(run("skipped"))
    assert numbered([run("skipped")]) == {}


def test_attempts_are_numbered_by_their_environment_then_by_age() -> None:
    def made(name: str, age: float, number: str | None) -> JobRun:
        environment = json.dumps({"KUBETUNE_ATTEMPT": number} if number else {})
        return run("running", id=name, created_at=ago(age), environment=environment)

    runs = [made("third", 10, "3"), made("by-hand", 5, None), made("first", 30, "1")]
    assert [(at, one.id) for at, one in numbered(runs).items()] == [
        (1, "first"),
        (3, "third"),
        (4, "by-hand"),
    ]
    # Two runs of one attempt: the older keeps it.
    twice = [made("late", 1, "1"), made("early", 2, "1")]
    assert {at: one.id for at, one in numbered(twice).items()} == {1: "early", 2: "late"}
    # A listing without environments.
    bare = [run("failed", id="b", created_at=ago(1)), run("failed", id="a", created_at=ago(2))]
    assert [one.id for one in numbered(bare).values()] == ["a", "b"]
    broken = [run("failed", environment="{not json")]
    assert list(numbered(broken)) == [1]


@pytest.mark.parametrize("number", ["²", "-1", "9" * 5000, "1.5", "", " 1"])
def test_a_number_of_an_attempt_that_is_none_counts_as_missing(number: str) -> None:
    environment = json.dumps({"KUBETUNE_ATTEMPT": number})
    assert list(numbered([run("running", environment=environment)])) == [1]


def test_the_usage_row_of_a_run_is_never_that_of_another() -> None:
    job = Job(id="j", name="kubetune-team-tickets-key")
    first, second = run("failed", id="a", created_at=ago(900)), run("failed", created_at=ago(100))

    def row(at: float | None, **fields: Any) -> UsageResponse:
        made = None if at is None else ago(at)
        return UsageResponse(name=job.name, created_at=made, **fields)

    both = [first, second]
    rows = [row(890, message="of the first"), row(105, message="of the second")]
    assert usage_row(job, second, both, rows) == rows[1]
    assert usage_row(job, first, both, rows) == rows[0]
    # The list is behind: what is there belongs to the run before.
    assert usage_row(job, second, both, rows[:1]) is None
    ids = [row(100, id="a", message="of the first"), row(900, id="run-1", message="of the second")]
    assert usage_row(job, second, both, ids) == ids[1]
    assert usage_row(job, second, both, ids[:1]) is None
    untimed = row(None, message="alone")
    assert usage_row(job, second, [second], [untimed]) == untimed
    foreign = UsageResponse(name="another", created_at=ago(100))
    assert usage_row(job, second, both, [foreign]) is None


def test_endless_scheduling_is_overdue() -> None:
    assert not state("scheduling", scheduling_at=ago(599)).overdue
    waiting = state("scheduling", scheduling_at=ago(600))
    assert (waiting.overdue, waiting.reason) == (True, "SchedulingTimedOut")
    # Once it had a place it waits no more.
    assert not state("scheduling", scheduling_at=ago(900), starting_at=ago(1)).overdue
    # A time that was never set comes as the year 1.
    assert state("scheduling", scheduling_at=NEVER, created_at=ago(700)).overdue


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"scheduling_at": ago(700), "finished_at": ago(0)}, "SchedulingTimedOut"),
        ({"scheduling_at": ago(700), "running_at": ago(500)}, "StoppedByHand"),
        ({"scheduling_at": ago(10), "finished_at": ago(0)}, "StoppedByHand"),
        ({"scheduling_at": ago(10), "finished_at": ago(0), "given_up": True}, "SchedulingTimedOut"),
    ],
)
def test_who_stopped_a_run(fields: JsonObject, reason: str) -> None:
    found = state("stopped", **fields)
    assert found.reason == reason
    assert found.phase == ("failed" if reason == "SchedulingTimedOut" else "stopped")


def test_a_status_without_meaning_is_borne_for_a_while() -> None:
    assert state("unknown", unknown_since=ago(299)).phase == "running"
    lost = state("unknown", unknown_since=ago(300))
    assert (lost.phase, lost.reason) == ("failed", "RunLost")
    assert "more than 5 minutes" in lost.message


@pytest.mark.parametrize(
    ("usage", "reason", "says", "code"),
    [
        ({"oom_killed": True}, "OutOfMemory", "spec.resources.memory", 137),
        ({"k8s_info": {"k8s_reason": "OOMKilled", "k8s_exit_code": 137}}, "OutOfMemory", "", 137),
        ({"message": "evicted"}, "RunFailed", "evicted", None),
        ({"k8s_info": {"k8s_exit_code": "3"}}, "RunFailed", "exit code 3", 3),
        ({"k8s_info": None}, "RunFailed", "see its log in CML", None),
        (None, "RunFailed", "see its log in CML", None),
    ],
)
def test_a_failure_without_an_outcome_has_the_reason_of_its_usage_row(
    usage: JsonObject | None, reason: str, says: str, code: int | None
) -> None:
    row = None if usage is None else UsageResponse.model_validate(usage)
    found = state("failed", Ending(usage=row))
    assert (found.phase, found.reason, found.exit_code) == ("failed", reason, code)
    assert says in found.message


def test_a_failure_that_may_be_explained_yet_is_no_verdict() -> None:
    found = state("failed", unexplained=True)
    assert (found.phase, found.reason, found.ended_at) == ("running", "Ending", None)


def test_a_usage_row_in_status_shows_no_secret() -> None:
    usage = {"message": "GET https://me:hunter2@mlflow.example/x\nrefused hf_hunter2hunter2"}
    message = state("failed", Ending(usage=UsageResponse.model_validate(usage))).message
    assert message == "The run ended: GET https://***@mlflow.example/x refused ***"


def test_an_outcome_counts_more_than_anything() -> None:
    found = state("failed", Ending(CRASHED, UsageResponse(oom_killed=True)))
    assert (found.reason, found.message) == ("DiskFull", "no space left")
    assert state("failed", Ending(INTERRUPTED)).phase == "preempted"
    assert state("succeeded", Ending(TRAINED)).outcome == TRAINED
    assert state("succeeded", Ending(TRAINED)).exit_code == 0
    # The kernel counts any exit as failed; what the status says of a live run stays.
    assert state("running", Ending(TRAINED)).outcome is None


def test_a_stop_that_we_have_ordered_was_nobodys_by_hand() -> None:
    ours = state("ENGINE_STOPPED", ordered=True)
    assert (ours.phase, ours.reason, ours.message) == ("stopped", "", "")
    # That it waited too long for room is a reason of its own.
    waited = state("ENGINE_STOPPED", ordered=True, given_up=True)
    assert (waited.phase, waited.reason) == ("failed", "SchedulingTimedOut")
    assert state("ENGINE_STOPPED", Ending(TRAINED), ordered=True).phase == "succeeded"

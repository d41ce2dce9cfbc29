"""Attempts and their counts after what the target shows, and what a later attempt runs with."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import (
    CRASHED,
    DATASET_FOUND,
    NONE_FINISHED,
    NOW,
    TRAINED,
    ago,
    assert_fits,
    attempt,
    condition_of,
    dataset,
    job,
    model,
    observed_job,
    ready,
    resource,
    run,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.kinds.running import MAX_ATTEMPTS
from kubetune.api.kinds.status_types import AttemptCountsDict, AttemptDict
from kubetune.api.run.outcome import Outcome
from kubetune.decide.decision import Decision, StartRun
from kubetune.decide.fine_tune_job.progress import merge_attempts
from kubetune.decide.fine_tune_job.states import decide
from kubetune.decide.target.place import record
from kubetune.decide.target.refused import start_refused
from kubetune.targets.errors import BackendError
from kubetune.targets.values import RunState


@dataclass
class Case:
    name: str
    because: str
    known: list[str]
    runs: list[RunState]
    results: list[str]
    counts: tuple[int, int, int]
    """total, failed, preempted"""
    before: tuple[int, int, int] = (0, 0, 0)
    stopped: bool = False
    reasons: dict[int, str] = field(default_factory=dict[int, str])


CASES = [
    Case("nothing", "", [], [], [], (0, 0, 0)),
    Case("new run", "", [], [run(1, "pending")], ["Running"], (1, 0, 0)),
    Case(
        "found after a crash",
        "the status of the first attempt was never written",
        [],
        [run(1, "failed", CRASHED), run(2, "running")],
        ["Failed", "Running"],
        (2, 1, 0),
    ),
    Case("goes on", "", ["Running"], [run(1, "stopping")], ["Running"], (1, 0, 0), (1, 0, 0)),
    Case(
        "succeeds",
        "",
        ["Running"],
        [run(1, "succeeded", TRAINED)],
        ["Succeeded"],
        (1, 0, 0),
        (1, 0, 0),
    ),
    Case(
        "fails",
        "the runner's reason goes before the target's",
        ["Running"],
        [run(1, "failed", CRASHED, reason="RunFailed", exit_code=1)],
        ["Failed"],
        (1, 1, 0),
        (1, 0, 0),
        reasons={1: "OutOfMemory"},
    ),
    Case(
        "fails without a word",
        "the target's reason is all there is",
        ["Running"],
        [run(1, "failed", reason="RunFailed", exit_code=1)],
        ["Failed"],
        (1, 1, 0),
        (1, 0, 0),
        reasons={1: "RunFailed"},
    ),
    Case(
        "counted once",
        "a failed Job stays where it is and is seen again and again",
        ["Failed"],
        [run(1, "failed", CRASHED)],
        ["Failed"],
        (1, 1, 0),
        (1, 1, 0),
    ),
    Case("preempted", "", ["Running"], [run(1, "preempted")], ["Preempted"], (1, 0, 1), (1, 0, 0)),
    Case(
        "lost",
        "somebody deleted its Job",
        ["Running"],
        [],
        ["Failed"],
        (1, 1, 0),
        (1, 0, 0),
        reasons={1: "RunLost"},
    ),
    Case(
        "stopped on our order",
        "it doesn't count",
        ["Running"],
        [],
        ["Stopped"],
        (1, 0, 0),
        (1, 0, 0),
        stopped=True,
    ),
    Case(
        "finished Jobs deleted",
        "what is written stays written",
        ["Failed", "Preempted", "Succeeded"],
        [],
        ["Failed", "Preempted", "Succeeded"],
        (3, 1, 1),
        (3, 1, 1),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_merge(case: Case) -> None:
    known: Any = [attempt(number, result) for number, result in enumerate(case.known, 1)]
    labels = ("total", "failed", "preempted")
    before: Any = dict(zip(labels, case.before, strict=True))
    attempts, counts = merge_attempts(known, before, case.runs, stopped=case.stopped)
    assert [item["result"] for item in attempts] == case.results, case.because
    assert counts == dict(zip(labels, case.counts, strict=True)), case.because
    for number, reason in case.reasons.items():
        assert attempts[number - 1]["reason"] == reason, case.because


def test_the_newest_failed_attempt_has_the_end_of_its_log() -> None:
    told = CRASHED.model_copy(update={"log": "Traceback\nValueError: first"})
    attempts, counts = merge_attempts([], None, [run(1, "failed", told)], stopped=False)
    assert attempts[0]["log"] == "Traceback\nValueError: first"
    attempts, counts = merge_attempts(attempts, counts, [run(2, "running")], stopped=False)
    assert ["log" in item for item in attempts] == [True, False], "while the next one runs"
    killed = run(2, "failed", log="x" * 5000)
    attempts, counts = merge_attempts(attempts, counts, [killed], stopped=False)
    assert [len(item.get("log", "")) for item in attempts] == [0, 2047]
    evicted = run(3, "preempted", told)
    attempts, _ = merge_attempts(attempts, counts, [evicted], stopped=False)
    assert ["log" in item for item in attempts] == [False, True, False]


def test_attempts_beyond_the_newest_ten_are_counted_once() -> None:
    """Failed Jobs stay in the cluster, also those that status no longer lists."""
    runs = [run(number, "failed", CRASHED) for number in range(1, 16)]
    attempts: list[AttemptDict] = []
    counts: AttemptCountsDict | None = None
    for _ in range(3):
        attempts, counts = merge_attempts(attempts, counts, runs, stopped=False)
        assert counts == {"total": 15, "failed": 15, "preempted": 0}
        assert [item["number"] for item in attempts] == list(range(6, 16))
        assert len(attempts) == MAX_ATTEMPTS


def next_attempt(decision: Decision[Any]) -> StartRun:
    (start,) = (action for action in decision.actions if isinstance(action, StartRun))
    return start


def failed_once(spec: JsonObject | None = None, **around: Any) -> JsonObject:
    """The status of a job whose first attempt failed ten seconds ago."""
    started = decide(observed_job(job(spec), **around), NOW).status or {}
    failed = tried(attempt(1, "Failed", endTime=ago(10)), phase="Queued")
    return started | failed


def test_attempt_after_a_failure_has_the_next_number() -> None:
    start = next_attempt(
        decide(observed_job(job(status=failed_once()), answers=NONE_FINISHED), NOW)
    )
    assert start.request.attempt == 2


def test_settings_are_frozen_with_the_first_run() -> None:
    """Profile and data may change meanwhile; the run's plan doesn't, and status says so."""

    def profile(claim: str | None) -> Any:
        checkpoint = {"checkpoint": {"claimName": claim}} if claim else {}
        return resource("TuningProfile", "house", checkpoint)

    spec = {"profileRef": {"name": "house"}}
    status = failed_once(spec, profile=profile("disk"))
    changed = ready(dataset(), **(DATASET_FOUND | {"digest": "sha256:new"}))
    around = {"profile": profile(None), "dataset": changed, "answers": NONE_FINISHED}
    decision = decide(observed_job(job(spec, status=status), **around), NOW)
    assert next_attempt(decision).request.checkpoint_claim == "disk"
    after = decision.status or {}
    assert after["effective"] == status["effective"]
    assert after["lineage"] == status["lineage"]


def test_settings_are_not_frozen_before_the_first_run() -> None:
    seeking = job({"output": {"registry": {}}})
    status = decide(observed_job(seeking), NOW).status or {}
    changed = ready(dataset(), **(DATASET_FOUND | {"digest": "sha256:new"}))
    again = observed_job(job({"output": {"registry": {}}}, status=status), dataset=changed)
    assert (decide(again, NOW).status or {})["lineage"]["datasetDigest"] == "sha256:new"


def test_resources_may_change_while_suspended() -> None:
    status = failed_once() | {"phase": "Suspended"}
    more = job({"resources": {"memory": "16Gi"}}, status=status)
    decision = decide(observed_job(more, answers=NONE_FINISHED), NOW)
    assert next_attempt(decision).request.resources.memory == "16Gi"
    assert (decision.status or {})["effective"]["resources"]["memory"] == "16Gi"


def test_with_other_workers_training_starts_over() -> None:
    before = failed_once()
    status = before | {"phase": "Suspended"}
    changed = ready(dataset(), **(DATASET_FOUND | {"digest": "sha256:new"}))
    around = {"dataset": changed, "answers": NONE_FINISHED}
    decision = decide(observed_job(job({"workers": 2}, status=status), **around), NOW)
    request = next_attempt(decision).request
    after = decision.status or {}
    assert (request.workers, request.plan["workers"], request.attempt) == (2, 2, 2)
    # Steps mean something else now: no checkpoint of before has this digest.
    assert request.plan["lineageDigest"] == after["lineage"]["digest"]
    assert after["lineage"]["digest"] != before["lineage"]["digest"]
    assert (after["lineage"]["worldSize"], after["effective"]["workers"]) == (2, 2)
    assert after["lineage"]["datasetDigest"] == "sha256:new"


def test_crash_between_start_and_status_loses_no_lineage() -> None:
    lineage = (decide(observed_job(), NOW).status or {})["lineage"]
    stamped = job({"output": {"modelName": "out"}})
    done = observed_job(stamped, runs=[run(1, "succeeded", TRAINED)])
    status = decide(done, NOW).status or {}
    assert status["lineage"] == lineage
    assert status["effective"]["method"]["type"] == "lora"


def test_retry_waits_for_inputs_that_are_gone() -> None:
    around = {"model": model(), "answers": NONE_FINISHED}
    decision = decide(observed_job(job(status=failed_once()), **around), NOW)
    assert (decision.status or {})["phase"] == "Preparing"
    assert decision.actions == ()


def test_longest_messages_fit_the_schema() -> None:
    outcome = Outcome(status="failed", reason="Long", message="m" * 1024, retryable=True)
    observed = observed_job(job({"backoffLimit": 0}), runs=[run(1, "failed", outcome)])
    status = decide(observed, NOW).status or {}
    assert status["phase"] == "Failed"
    assert_fits("FineTuneJob", status)


def test_newest_job_stands_in_status() -> None:
    observed = observed_job(runs=[run(1, "failed", CRASHED), run(2, "running")])
    external = (decide(observed, NOW).status or {})["external"]
    assert external == record(observed.target, "team") | {"jobId": "team/tune-2"}


@pytest.mark.parametrize("attempts", [0, 1])
def test_refusal_of_a_later_attempt_keeps_the_clock_of_the_deadline(attempts: int) -> None:
    status: Any = tried(*[attempt(1, "Failed")] * attempts)
    after: Any
    error = BackendError("QuotaExceeded", "no room", retryable=True)
    after, requeue = start_refused(status, error, 1, NOW)
    assert ("startTime" in after) == bool(attempts)
    assert after["phase"] == "Pending"
    # A quarter of the time that it has waited.
    assert requeue == 15


@pytest.mark.parametrize(("preempted", "pause"), [(2, 10), (3, 20), (50, 360)])
def test_the_pause_after_evictions_grows(preempted: int, pause: float) -> None:
    status = tried(attempt(60, "Preempted", endTime=ago(0)))
    status["counts"]["preempted"] = preempted
    decision = decide(observed_job(job(status=status)), NOW)
    assert decision.requeue_after == pause
    assert condition_of(decision.status, "Ready") == ("False", "Disrupted")


def test_evictions_have_an_end() -> None:
    status = tried(attempt(60, "Preempted", endTime=ago(0)))
    status["counts"]["preempted"] = 51
    decision = decide(observed_job(job(status=status)), NOW)
    assert condition_of(decision.status, "Failed") == ("True", "Disrupted")

"""The clocks of waiting and queueing, and how an Evaluation ends by them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, ago, assert_fits, condition_of, names, run
from evaluation_objects import decided, evaluation, not_found, observed
from kubetune.decide.decision import StopRuns
from kubetune.decide.evaluation.observed import EvaluationAnswers
from kubetune.decide.waited import queue_clock, read
from kubetune.targets.values import RunState

LIMIT = 60
WAITING: dict[str, list[RunState]] = {
    name: [run(1, "pending", started_at=None, reason="Queued")] for name in ("base", "tuned")
}


def at(seconds: float) -> Any:
    return NOW + timedelta(seconds=seconds)


def test_the_clock_counts_whole_seconds_without_losing_any() -> None:
    clock = read(None, at(0.9)).going()
    for seconds in (1.8, 2.7, 3.6, 4.5):
        clock = read(read(clock.told, at(seconds)).stopped().told, at(seconds)).going()
    assert clock.seconds == 4
    assert read(None, NOW).told is None


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [
        ([run(1, "running", started_at=at(-10))], 30),
        ([run(1, "failed", started_at=None, ended_at=at(-15))], 25),
        ([run(1, "running", started_at=at(-90))], 40),
        ([run(1, "running", started_at=at(90))], 40),
        ([], 40),
    ],
    ids=["began", "ended", "by another's clock before", "by another's clock later", "gone"],
)
def test_who_went_unseen_queued_until_it_began(runs: list[RunState], seconds: int) -> None:
    clock = queue_clock({"seconds": 0, "since": ago(40)}, runs, [], NOW)
    assert clock.told == {"seconds": seconds}


def limited(status: Any = None, **fields: Any) -> Any:
    limits = {"waitingDeadlineSeconds": LIMIT, "queueDeadlineSeconds": LIMIT, "parallelism": 2}
    return evaluation(status=status, **(limits | fields))


def test_an_evaluation_waits_for_its_dataset() -> None:
    decision = decided(observed(limited(), dataset=None))
    assert decision.status["waitTime"] == {"seconds": 0, "since": ago(0)}
    assert decision.requeue_after == LIMIT
    ended = decided(observed(limited(decision.status), dataset=None), at(LIMIT))
    assert condition_of(ended.status, "Failed") == ("True", "WaitedTooLong")
    assert condition_of(ended.status, "Passed") == ("False", "WaitedTooLong")
    assert ended.status["waitTime"] == {"seconds": LIMIT}
    said = next(item for item in ended.status["conditions"] if item["type"] == "Failed")
    assert "Dataset tickets" in said["message"]


def test_an_evaluation_that_measures_does_not_wait() -> None:
    """The other candidate's Model is missing meanwhile, and afterwards."""
    given = observed(limited(), models={"tuned": None})
    status = decided(not_found(given)).status
    runs = {"base": [run(1, "running")]}
    during = decided(observed(limited(status), models={"tuned": None}, runs=runs), at(500))
    assert during.status["phase"] == "Running"
    assert "since" not in during.status.get("waitTime", {})


def test_an_evaluation_asks_the_tracking_server_once_more() -> None:
    status = {"waitTime": {"seconds": 60}}
    asks = decided(observed(limited(status)))
    assert "FindEvaluation" in names(asks)
    assert asks.status["phase"] == "Preparing"
    away = EvaluationAnswers(tracking_error="no answer")
    ended = decided(observed(limited(status), answers=away))
    assert condition_of(ended.status, "Failed") == ("True", "WaitedTooLong")
    starts = decided(not_found(observed(limited(status))))
    assert names(starts) == ["StartRun", "StartRun"]


def test_an_evaluation_that_queues_for_too_long() -> None:
    status = decided(not_found(observed(limited()))).status
    status = decided(observed(limited(status), runs=WAITING)).status
    assert status["queueTime"] == {"seconds": 0, "since": ago(0)}
    ordered = decided(observed(limited(status), runs=WAITING), at(LIMIT))
    assert [action for action in ordered.actions if isinstance(action, StopRuns)] == [
        *ordered.actions
    ]
    assert all(action.unbegun for action in ordered.actions if isinstance(action, StopRuns))
    assert ordered.status["phase"] != "Failed", "one may begin in that moment"
    gone = decided(observed(limited(ordered.status)), at(LIMIT + 1))
    assert condition_of(gone.status, "Failed") == ("True", "QueuedTooLong")
    assert names(gone) == []
    assert_fits("Evaluation", gone.status)
    raised = limited(ordered.status, queueDeadlineSeconds=600)
    again = decided(not_found(observed(raised)), at(LIMIT + 1))
    assert names(again) == ["StartRun", "StartRun"]
    begun = {"base": [run(1, "running", started_at=at(LIMIT))], "tuned": WAITING["tuned"]}
    goes_on = decided(observed(limited(ordered.status), runs=begun), at(LIMIT + 1))
    assert goes_on.status["phase"] == "Running"
    assert names(goes_on) == []

"""Suspension, deadline, time to live and progress of an Evaluation."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from builders import (
    CRASHED,
    MISSING_TARGET,
    NOW,
    assert_fits,
    kstatus,
    names,
    ready_reason,
    run,
    target,
    told,
)
from evaluation_objects import (
    candidate,
    decided,
    evaluated,
    evaluation,
    not_found,
    observed,
    phases,
)
from evaluation_objects import tracked as measured
from kubetune.api import JsonObject
from kubetune.api.run.plan import METRIC_ETA, METRIC_STEP, TAG_PHASE, TAG_TOTAL_STEPS
from kubetune.decide.decision import (
    Decision,
    DeleteRuns,
    DeleteSelf,
    Record,
    ReleaseFinalizer,
    StopRuns,
    rfc3339,
)
from kubetune.decide.evaluation.observed import EvaluationAnswers
from kubetune.decide.evaluation.states import decide
from kubetune.decide.resources import TargetProblem
from kubetune.decide.target.refused import start_refused
from kubetune.names import FINALIZER
from kubetune.targets.errors import BackendError
from kubetune.tracking.base import TrackedRun

AT_ONCE: JsonObject = {"parallelism": 2}
AT_CML = target(
    kubernetes=None,
    cml={
        "url": "https://ml.example.com",
        "project": "tuning",
        "apiKeySecretRef": {"name": "cml-key"},
        "runtime": {"kernel": "Python 3.11"},
    },
)
REFUSAL = BackendError("PlanTooLarge", "shorten it", retryable=False)
FUNCTIONS = [{"name": "words", "configMapRef": {"name": "metrics", "key": "words.py"}}]


def running(**fields: Any) -> JsonObject:
    """The status while both candidates run."""
    given = observed(evaluation(**AT_ONCE, **fields))
    status = decided(not_found(given)).status
    runs = {name: [run(1, "running")] for name in ("base", "tuned")}
    return decided(observed(evaluation(**AT_ONCE, **fields, status=status), runs=runs)).status


def test_suspension_stops_what_runs_and_keeps_what_is_measured() -> None:
    given = evaluation(**AT_ONCE, suspend=True, status=running())
    decision = decided(
        observed(
            given, runs={"base": [run(1, "succeeded", evaluated())], "tuned": [run(1, "running")]}
        )
    )
    assert phases(decision.status) == {"base": "Succeeded", "tuned": "Running"}
    assert names(decision) == ["SignMeasurement", "StopRuns"]
    assert decision.status["phase"] == "Stopping"
    assert_fits("Evaluation", decision.status)

    again = evaluation(**AT_ONCE, suspend=True, status=decision.status)
    stopped = {"tuned": [run(1, "stopped")]}
    decision = decided(observed(again, runs=stopped))
    assert decision.status["phase"] == "Suspended"
    assert ready_reason(decision) == ("False", "Suspended")
    assert kstatus(decision.status, 1) == "InProgress"
    assert candidate(decision.status, "tuned")["attempt"]["result"] == "Stopped"
    assert names(decision) == []

    resumed = evaluation(**AT_ONCE, status=decision.status)
    decision = decided(observed(resumed, runs=stopped))
    assert names(decision) == ["FindEvaluation"], "it may have finished while it was stopped"
    none = EvaluationAnswers(found={"tuned/1": None})
    decision = decided(observed(resumed, runs=stopped, answers=none))
    assert names(decision) == ["StartRun"]
    assert candidate(decision.status, "tuned")["counts"]["failed"] == 0


def test_a_stop_that_ends_after_the_suspension_was_ordered_all_the_same() -> None:
    suspended = evaluation(**AT_ONCE, suspend=True, status=running())
    runs = {name: [run(1, "running")] for name in ("base", "tuned")}
    status = decided(observed(suspended, runs=runs)).status
    stopping = {name: [run(1, "stopping")] for name in ("base", "tuned")}
    status = decided(observed(evaluation(**AT_ONCE, status=status), runs=stopping)).status
    none = EvaluationAnswers(found={"base/1": None, "tuned/1": None})
    gone = decided(observed(evaluation(**AT_ONCE, status=status), runs={}, answers=none))
    assert names(gone) == ["StartRun", "StartRun"]


def test_what_a_target_refuses_was_never_submitted() -> None:
    given = evaluation(functions=FUNCTIONS, metrics=["words"])
    before = not_found(observed(given, functions={"words": "too long"}))
    status: Any
    status, again = start_refused(decided(before).status, REFUSAL, 1, NOW)
    assert again is None
    assert phases(status) == {"base": "Pending", "tuned": "Pending"}
    assert candidate(status, "base")["reason"] == "PlanTooLarge"
    assert status["phase"] == "Pending"
    assert "startTime" not in status
    assert kstatus(status, 1) == "Failed"
    assert_fits("Evaluation", status)

    # So a change of the inputs is no change of what others were measured with.
    given = evaluation(functions=FUNCTIONS, metrics=["words"], status=status)
    decision = decided(not_found(observed(given, functions={"words": "short"})))
    assert names(decision) == ["StartRun"]
    assert decision.status["data"] != status["data"]
    assert candidate(decision.status, "base")["digest"] != candidate(status, "base")["digest"]
    assert "Submitted" not in {item["type"] for item in decision.status["conditions"]}


def test_a_refusal_leaves_what_runs_as_it_is() -> None:
    runs = {"base": [run(1, "running")]}
    status: Any = running() | {"startTime": rfc3339(NOW)}
    status["candidates"][1] = {"name": "tuned", "phase": "Pending"}
    given = not_found(observed(evaluation(**AT_ONCE, status=status), runs=runs))
    status, _ = start_refused(decided(given).status, REFUSAL, 1, NOW)
    assert phases(status) == {"base": "Running", "tuned": "Pending"}
    assert (status["phase"], status["startTime"]) == ("Running", rfc3339(NOW))


def test_nothing_starts_while_suspended() -> None:
    decision = decided(observed(evaluation(suspend=True)))
    assert decision.actions == ()
    assert decision.status["phase"] == "Suspended"


def test_the_deadline_ends_it() -> None:
    runs = {name: [run(1, "running")] for name in ("base", "tuned")}
    given = evaluation(**AT_ONCE, activeDeadlineSeconds=60, status=running())
    # They run since 30 s, at the same time.
    early = decided(observed(given, runs=runs), NOW + timedelta(seconds=20))
    assert early.requeue_after == 10
    assert names(early) == ["LimitRuns", "LimitRuns"]
    over = decided(observed(given, runs=runs), NOW + timedelta(seconds=31))
    assert names(over) == ["LimitRuns", "LimitRuns"], "their Jobs end them"
    assert candidate(over.status, "base")["reason"] == "DeadlineExceeded"
    late = decided(observed(given, runs=runs), NOW + timedelta(seconds=41))
    assert names(late) == ["StopRuns", "StopRuns"]
    end = NOW + timedelta(seconds=30)
    stopped = run(1, "failed", reason="DeadlineExceeded", ended_at=end, exit_code=75)
    given = evaluation(**AT_ONCE, activeDeadlineSeconds=60, status=late.status)
    ended = observed(given, runs={name: [stopped] for name in runs})
    gone = decided(ended, NOW + timedelta(seconds=42))
    assert gone.status["phase"] == "Failed"
    assert ready_reason(gone) == ("False", "DeadlineExceeded")
    assert_fits("Evaluation", gone.status)


def test_a_run_that_went_unseen_at_its_deadline_may_have_finished() -> None:
    mute = run(1, "failed", reason="DeadlineExceeded")
    given = evaluation(**AT_ONCE, activeDeadlineSeconds=20, status=running())
    ended = observed(given, runs={key: [mute] for key in ("base", "tuned")})
    after = NOW + timedelta(days=1)
    asked = decided(ended, after)
    assert names(asked) == ["FindEvaluation", "FindEvaluation"]
    assert asked.status["phase"] != "Failed"
    keys = ("base/1", "tuned/1")
    found = replace(ended, answers=EvaluationAnswers(found=dict.fromkeys(keys, measured())))
    assert decided(found, after).status["phase"] == "Succeeded"
    nothing = replace(ended, answers=EvaluationAnswers(found=dict.fromkeys(keys)))
    assert ready_reason(decided(nothing, after)) == ("False", "DeadlineExceeded")


def test_a_failed_attempt_waits_for_the_inputs_of_the_next() -> None:
    status = running()
    for item in status["candidates"]:
        item["attempt"] |= {"endTime": rfc3339(NOW - timedelta(hours=1))}
    failed = run(1, "failed", CRASHED, ended_at=NOW - timedelta(hours=1))
    runs = {"base": [failed], "tuned": [failed]}
    decision = decided(observed(evaluation(**AT_ONCE, status=status), dataset=None, runs=runs))
    assert ready_reason(decision) == ("False", "DatasetMissing")
    assert decision.status["phase"] == "Pending"


def test_what_is_measured_counts_before_the_deadline() -> None:
    given = evaluation(**AT_ONCE, activeDeadlineSeconds=20, status=running())
    runs = {name: [run(1, "succeeded", evaluated())] for name in ("base", "tuned")}
    decision = decided(observed(given, runs=runs), NOW + timedelta(days=1))
    assert decision.status["phase"] == "Succeeded"


def test_results_are_looked_up_after_the_deadline() -> None:
    given = evaluation(**AT_ONCE, activeDeadlineSeconds=20, status=running())
    runs = {name: [run(1, "succeeded")] for name in ("base", "tuned")}
    decision = decided(observed(given, runs=runs), NOW + timedelta(days=1))
    assert names(decision) == ["FindEvaluation", "FindEvaluation"]
    assert decision.status["phase"] != "Failed"


def test_nothing_starts_after_the_deadline() -> None:
    given = evaluation(activeDeadlineSeconds=30, status=running())
    runs = {"base": [run(1, "succeeded", evaluated())]}
    status: Any = running()
    status["candidates"][1] = {"name": "tuned", "phase": "Pending"}
    given = evaluation(activeDeadlineSeconds=30, status=status)
    decision = decided(observed(given, runs=runs))
    assert names(decision) == ["SignMeasurement"]
    assert ready_reason(decision) == ("False", "DeadlineExceeded")


def test_the_time_to_live_deletes_it() -> None:
    over = {
        "phase": "Succeeded",
        "completionTime": rfc3339(NOW),
        "observedGeneration": 1,
        "candidates": [{"name": "base", "phase": "Succeeded", "digest": "sha256:a"}],
    }
    given = observed(evaluation("base", ttlSecondsAfterFinished=60, status=over))
    assert decide(given, NOW + timedelta(seconds=20)).requeue_after == 40
    assert decide(given, NOW + timedelta(seconds=60)).actions == (DeleteSelf(),)
    assert decide(observed(evaluation("base", status=over)), NOW).actions == ()


def test_jobs_of_cml_go_before_the_evaluation() -> None:
    given = evaluation(**AT_ONCE, status=running())
    deleted = replace(given, deleting=True, finalizers=(FINALIZER,))
    around = {name: {"run_key": f"key-of-{name}"} for name in ("base", "tuned")}
    started = AT_CML.spec
    there = observed(deleted, target=MISSING_TARGET, started=started, around=around)
    keys = ("key-of-base", "key-of-tuned")
    over = {"phase": "Cancelled"}
    go = (Record("phase", over["phase"]), ReleaseFinalizer())
    assert decide(there, NOW) == Decision((*map(DeleteRuns, keys), *go), given.status | over)
    away = replace(there, target_problem=TargetProblem("TargetUnreachable", "it is away"))
    assert decide(away, NOW).actions == ()
    # One that never submitted anything waits for nobody.
    assert decide(replace(away, started=None), NOW) == Decision((ReleaseFinalizer(),))


def test_only_an_evaluation_with_jobs_in_cml_has_a_finalizer() -> None:
    given = not_found(observed(evaluation(**AT_ONCE), target=AT_CML))
    assert names(decided(given)) == ["Stamp", "StartRun", "StartRun"]
    stamped = replace(given.evaluation, finalizers=(FINALIZER,))
    assert names(decided(replace(given, evaluation=stamped))) == ["StartRun", "StartRun"]
    deleted = replace(evaluation(status=running()), deleting=True)
    assert decide(observed(deleted), NOW) == Decision()


def test_nothing_is_left_running_after_the_end() -> None:
    over = {
        "phase": "Failed",
        "observedGeneration": 1,
        "candidates": [{"name": "base", "phase": "Failed", "digest": "sha256:a"}],
    }
    given = observed(evaluation("base", status=over), runs={"base": [run(1, "running")]})
    assert [type(action) for action in decide(given, NOW).actions] == [StopRuns]


def tracked(rows: int) -> TrackedRun:
    return TrackedRun(
        "key",
        "7",
        "run-1",
        "RUNNING",
        tags={
            TAG_PHASE: "evaluating",
            TAG_TOTAL_STEPS: "64",
            **told(1, **{METRIC_STEP: rows, METRIC_ETA: 75.0}),
        },
    )


def test_progress_counts_rows_and_is_written_at_a_bounded_rate() -> None:
    runs = {name: [run(1, "running")] for name in ("base", "tuned")}
    status = running()

    def later(seconds: int, base: int, tuned: int) -> JsonObject:
        given = observed(evaluation(**AT_ONCE, status=status), runs=runs)
        items = [
            replace(item, tracked=tracked(rows))
            for item, rows in zip(given.candidates, (base, tuned), strict=True)
        ]
        return decided(replace(given, candidates=items), NOW + timedelta(seconds=seconds)).status

    status = later(0, 16, 0)
    assert_fits("Evaluation", status)
    shown = candidate(status, "base")["progress"]
    assert shown == {
        "attempt": 1,
        "stage": "evaluating",
        "rows": 16,
        "totalRows": 64,
        "percent": 25,
        "etaSeconds": 75,
        "eta": "1m15s",
        "updatedAt": rfc3339(NOW),
    }
    assert status["progress"] == {
        "percent": 12,
        "candidate": "base",
        "stage": "evaluating",
        "eta": "1m15s",
    }
    assert later(5, 20, 8) == status, "the last write is five seconds old"
    status = later(10, 24, 8)
    assert [candidate(status, name)["progress"]["rows"] for name in ("base", "tuned")] == [24, 8]
    ended = runs | {"base": [run(1, "succeeded", evaluated())]}
    over = decided(observed(evaluation(**AT_ONCE, status=status), runs=ended)).status
    assert "progress" not in candidate(over, "base")
    assert (over["progress"]["candidate"], over["progress"]["percent"]) == ("tuned", 56)

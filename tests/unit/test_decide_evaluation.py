"""What the operator does for an Evaluation, up to the results of all candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    CRASHED,
    DATASET_FOUND,
    MISSING_TARGET,
    NOW,
    REFUSED,
    assert_fits,
    condition_of,
    dataset,
    kstatus,
    model,
    names,
    ready,
    ready_reason,
    resource,
    run,
)
from evaluation_objects import (
    candidate,
    decided,
    evaluated,
    evaluation,
    not_found,
    observed,
    phases,
    settle,
    started,
    tracked,
)
from kubetune.api import JsonObject
from kubetune.decide.decision import FindEvaluation, StartRun, rfc3339
from kubetune.decide.evaluation.observed import EvaluationAnswers, ObservedEvaluation
from kubetune.decide.evaluation.states import decide
from kubetune.decide.resources import TargetProblem

ADAPTER = {"type": "adapter", "revision": "a1"}


def begun(*candidates: str, **fields: Any) -> ObservedEvaluation:
    """An Evaluation whose candidates, as many as may, were submitted."""
    given = not_found(observed(evaluation(*candidates, **fields)))
    status = decided(given, NOW).status
    again = replace(given.evaluation, status=status)
    return replace(given, evaluation=again, answers=EvaluationAnswers())


def with_runs(given: ObservedEvaluation, **runs: Any) -> ObservedEvaluation:
    items = [replace(item, runs=runs.get(item.name, item.runs)) for item in given.candidates]
    return replace(given, candidates=items)


def with_running(given: ObservedEvaluation) -> ObservedEvaluation:
    """The Evaluation after its first attempts were seen to run."""
    seen = with_runs(given, **{item.name: [run(1, "running")] for item in given.candidates})
    again = replace(given.evaluation, status=decided(seen, NOW).status)
    return replace(given, evaluation=again)


def test_equal_measurements_are_sought_before_anything_runs():
    decision = decided(observed(), NOW)
    assert names(decision) == ["FindEvaluation", "FindEvaluation"]
    assert ready_reason(decision) == ("False", "SeekingEqual")
    assert decision.status["phase"] == "Preparing"
    assert decision.requeue_after == 10


def test_the_first_of_the_spec_starts_and_the_others_wait_their_turn():
    decision = decided(not_found(observed()), NOW)
    assert started(decision) == ["base"]
    assert phases(decision.status) == {"base": "Queued", "tuned": "Pending"}
    assert "parallelism" in candidate(decision.status, "tuned")["message"]
    assert decision.status["data"] == {"datasetDigest": "sha256:d1", "splitDigest": "sha256:s1"}
    assert_fits("Evaluation", decision.status)


def test_as_many_start_as_may():
    assert started(decided(not_found(observed(evaluation(parallelism=2))), NOW)) == [
        "base",
        "tuned",
    ]


def test_the_plan_says_what_is_measured():
    fields: JsonObject = {
        "generation": {"maxNewTokens": 9},
        "maxRows": 7,
        "samples": 0,
    }
    resources: JsonObject = {"resources": {"cpu": "3", "gpu": 1}}
    decision = decided(not_found(observed(evaluation("base", **fields, **resources))), NOW)
    (action,) = [a for a in decision.actions if isinstance(a, StartRun)]
    request = action.request
    assert (request.purpose, request.attempt) == ("evaluate", 1)
    assert request.resources.to_json() == {"cpu": "3", "memory": "4Gi", "gpu": 1}
    plan = request.plan
    assert plan["run"]["runKey"] == request.run_key
    assert plan["digest"] == candidate(decision.status, "base")["digest"]
    assert plan["generation"] == {
        "maxNewTokens": 9,
        "temperature": 0,
        "topP": 1,
        "batchSize": 8,
    }, "with temperature 0 nothing is sampled"
    assert (plan["maxRows"], plan["samples"], plan["split"]) == (7, 0, "evaluation")
    assert plan["dataset"]["splitDigest"] == "sha256:s1"


def test_an_adapter_brings_its_base():
    spec = {"source": {"volume": {"claimName": "files", "path": "a"}}}
    tuned = ready(model(spec | {"baseModelRef": {"name": "base"}}, name="tuned"), **ADAPTER)
    base = ready(model(name="base"), type="base", revision="c1")
    given = observed(evaluation("tuned"), models={"tuned": tuned}, around={"tuned": {"base": base}})
    (action,) = [a for a in decided(not_found(given), NOW).actions if isinstance(a, StartRun)]
    plan = action.request.plan["model"]
    assert plan["base"]["hub"]["revision"] == "c1"
    assert action.request.model_claim == "files"


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"generation": {"maxNewTokens": 9}}, False),
        ({"maxRows": 9}, False),
        ({"maxLossRows": 9}, False),
        ({"metrics": ["loss"]}, False),
        ({"metrics": ["loss", "exactMatch"]}, True),
        ({"metrics": ["exactMatch", "loss", "bleu"]}, False),
        ({"resources": {"cpu": "7"}}, True),
        ({"parallelism": 2, "backoffLimit": 0}, True),
        ({"thresholds": [{"metric": "loss", "max": 1}]}, True),
    ],
    ids=str,
)
def test_the_digest_covers_what_changes_results(changed: JsonObject, same: bool):
    def digest(given: ObservedEvaluation) -> str:
        (action,) = [a for a in decided(given, NOW).actions if isinstance(a, FindEvaluation)]
        return action.digest

    before = digest(observed(evaluation("base")))
    assert (digest(observed(evaluation("base", **changed))) == before) is same


def test_what_was_measured_before_is_taken_over():
    given = observed(evaluation(parallelism=2))
    answers = not_found(given).answers
    first, second = answers.found
    found = {first: tracked(exactMatch=0.25), second: None}
    decision = decided(replace(given, answers=EvaluationAnswers(found=found)), NOW)
    assert started(decision) == ["tuned"]
    base = candidate(decision.status, "base")
    assert (base["phase"], base["reused"], base["mlflow"]["runId"]) == ("Succeeded", True, "run-1")
    assert base["metrics"][0] == {"name": "exactMatch", "value": "0.25"}
    assert "attempt" not in base


def test_two_names_of_one_model_are_measured_once():
    same = ready(model(name="base"), type="base", revision="c1")
    given = observed(evaluation(parallelism=2), models={"base": same, "tuned": same})
    decision = decided(not_found(given), NOW)
    assert started(decision) == ["base"]
    assert "candidate base" in candidate(decision.status, "tuned")["message"]


def test_what_another_evaluation_measures_now_is_waited_for():
    given = not_found(observed(evaluation("base")))
    (digest,) = given.answers.found
    decision = decided(replace(given, elsewhere={digest: "Evaluation other"}), NOW)
    assert started(decision) == []
    assert "Evaluation other" in candidate(decision.status, "base")["message"]
    assert decision.requeue_after == 15


def test_a_tracking_server_that_is_away_is_waited_for():
    answers = EvaluationAnswers(tracking_error="no answer")
    decision = decided(observed(answers=answers), NOW)
    assert ready_reason(decision) == ("False", "TrackingUnreachable")
    assert started(decision) == []


def test_results_that_only_the_tracking_server_has_are_waited_for():
    silent = with_runs(with_running(begun("base")), base=[run(1, "succeeded")])
    assert ready_reason(decided(silent, NOW)) == ("False", "SeekingEqual")
    away = decided(replace(silent, answers=EvaluationAnswers(tracking_error="no answer")), NOW)
    assert names(away) == ["FindEvaluation"]
    assert ready_reason(away) == ("False", "TrackingUnreachable")


def test_a_candidate_that_runs_is_followed():
    decision = decided(with_runs(begun(), base=[run(1, "running")]), NOW)
    assert decision.status["phase"] == "Running"
    assert phases(decision.status) == {"base": "Running", "tuned": "Pending"}
    assert ready_reason(decision) == ("False", "Started")
    assert candidate(decision.status, "base")["attempt"]["number"] == 1
    assert_fits("Evaluation", decision.status)


def test_the_next_follows_when_one_is_measured():
    given = with_runs(begun(), base=[run(1, "succeeded", evaluated())])
    decision = decided(given, NOW)
    assert names(decision) == ["SignMeasurement", "FindEvaluation"]
    assert phases(decision.status) == {"base": "Succeeded", "tuned": "Pending"}
    again = replace(given.evaluation, status=decision.status)
    assert started(decided(not_found(replace(given, evaluation=again)), NOW)) == ["tuned"]


def test_each_candidate_is_retried_alone():
    given = with_runs(
        begun(parallelism=2), base=[run(1, "failed", CRASHED)], tuned=[run(1, "running")]
    )
    decision = decided(given, NOW)
    assert phases(decision.status) == {"base": "Retrying", "tuned": "Running"}
    assert decision.requeue_after == 10
    later = replace(given, evaluation=replace(given.evaluation, status=decision.status))
    later_on = NOW.replace(minute=NOW.minute + 1)
    decision = decided(later, later_on)
    (action,) = [a for a in decision.actions if isinstance(a, StartRun)]
    assert (action.request.plan["candidate"], action.request.attempt) == ("base", 2)


def test_an_evicted_run_is_repeated_at_once():
    evicted = with_runs(begun("base"), base=[run(1, "preempted")])
    asked = EvaluationAnswers(found={"base/1": None})
    decision = decided(replace(evicted, answers=asked), NOW)
    (action,) = [a for a in decision.actions if isinstance(a, StartRun)]
    assert action.request.attempt == 2
    assert candidate(decision.status, "base")["counts"] == {
        "total": 1,
        "failed": 0,
        "preempted": 1,
    }


@pytest.mark.parametrize("state", [run(1, "preempted"), run(1, "failed"), None])
def test_an_attempt_that_left_no_word_may_have_finished(state: Any):
    lost = with_runs(with_running(begun("base", backoffLimit=0)), base=[state] if state else [])
    decision = decided(lost, NOW)
    assert names(decision) == ["FindEvaluation"]
    away = decided(replace(lost, answers=EvaluationAnswers(tracking_error="no answer")), NOW)
    assert names(away) == ["FindEvaluation"]
    assert ready_reason(away) == ("False", "TrackingUnreachable")
    alone = replace(lost, started=None, target=MISSING_TARGET)
    assert ready_reason(decided(alone, NOW)) == ("False", "TargetMissing")
    found = EvaluationAnswers(found={"base/1": tracked(loss=1.5)})
    measured = candidate(decided(replace(lost, answers=found), NOW).status, "base")
    assert (measured["phase"], measured["attempt"]["result"]) == ("Succeeded", "Succeeded")
    assert measured["counts"]["failed"] == measured["counts"]["preempted"] == 0


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (run(1, "failed", REFUSED), "row 3 has no answer"),
        (run(1, "stopped", reason="StoppedByHand", message="stopped in CML"), "stopped in CML"),
        (run(1, "failed", CRASHED), "backoffLimit is 0"),
    ],
)
def test_a_candidate_that_fails_ends_the_evaluation(state: Any, words: str):
    given = with_runs(begun("base", backoffLimit=0), base=[state])
    decision = decided(given, NOW)
    assert decision.status["phase"] == "Failed"
    assert condition_of(decision.status, "Failed") == ("True", "CandidateFailed")
    assert condition_of(decision.status, "Passed") == ("False", "CandidateFailed")
    assert words in candidate(decision.status, "base")["message"]
    assert kstatus(decision.status, 1) == "Failed"
    assert decision.requeue_after is None
    assert_fits("Evaluation", decision.status)


def test_the_results_of_the_others_stay_when_one_fails():
    runs: JsonObject = {"base": [run(1, "failed", REFUSED)], "tuned": [run(1, "running")]}
    first = decided(with_runs(begun(parallelism=2), **runs), NOW)
    assert first.status["phase"] == "Running", "the other one goes on"
    given = with_runs(
        begun(parallelism=2),
        base=[run(1, "failed", REFUSED)],
        tuned=[run(1, "succeeded", evaluated())],
    )
    decision = decided(given, NOW)
    assert decision.status["phase"] == "Failed"
    assert candidate(decision.status, "tuned")["metrics"][0]["value"] == "0.5"


def test_results_that_did_not_come_with_the_outcome_are_looked_up():
    mute = evaluated().model_copy(update={"summary": {}})
    given = with_runs(begun("base"), base=[run(1, "succeeded", mute)])
    decision = decided(given, NOW)
    (action,) = decision.actions
    assert isinstance(action, FindEvaluation)
    found = replace(given, answers=EvaluationAnswers(found={action.asked: tracked(loss=1.5)}))
    assert decided(found, NOW).status["phase"] == "Succeeded"
    lost = replace(given, answers=EvaluationAnswers(found={action.asked: None}))
    assert candidate(decided(lost, NOW).status, "base")["reason"] == "ResultMissing"


def test_a_dataset_that_changes_meanwhile_ends_it():
    given = begun()
    other = ready(dataset(), **DATASET_FOUND | {"splitDigest": "sha256:s2"})
    live = with_runs(replace(given, dataset=other), base=[run(1, "running")])
    decision = decided(live, NOW)
    assert condition_of(decision.status, "Failed") == ("True", "DatasetChanged")
    assert names(decision) == ["StopRuns"]


def test_a_target_that_is_away_changes_nothing():
    given = replace(begun(), target_problem=TargetProblem("TargetUnreachable", "refused"))
    decision = decided(given, NOW)
    assert decision.status["candidates"] == given.evaluation.status["candidates"]
    assert condition_of(decision.status, "TargetAvailable") == ("False", "TargetUnreachable")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_what_is_over_stays_over(phase: str):
    over = evaluation(status={"phase": phase, "observedGeneration": 1})
    assert decide(observed(over, dataset=None), NOW).status is None


def test_a_spec_that_can_not_be_read_is_said():
    decision = decided(observed(resource("Evaluation", "compare", None)), NOW)
    assert condition_of(decision.status, "Stalled") == ("True", "InvalidSpec")


def test_differences_are_to_the_first_candidate():
    status = settle(
        observed(evaluation(parallelism=2)),
        {"base": {"exactMatch": 0.25, "loss": 2.0}, "tuned": {"exactMatch": 0.75, "loss": 0.5}},
    )
    tuned = candidate(status, "tuned")["metrics"]
    assert [item["delta"] for item in tuned] == ["+0.5", "-1.5"]
    assert "delta" not in candidate(status, "base")["metrics"][0]
    assert status["completionTime"] == rfc3339(NOW)

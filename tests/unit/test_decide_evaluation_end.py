"""The verdict on an Evaluation, and the alias that moves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import KEYS, NOW, condition_of, kstatus, run
from evaluation_objects import (
    candidate,
    decided,
    evaluation,
    not_found,
    observed,
    registered_model,
    settle,
    summary,
    tracked,
    version,
)
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.decide.decision import FindEvaluation, MoveAlias
from kubetune.decide.evaluation.observed import EvaluationAnswers
from kubetune.decide.evaluation.states import decide
from kubetune.decide.gate import Demand, Rival, misses

PROMOTE = {"promote": {"name": "tickets", "alias": "champion"}}
BETTER = {"metric": "exactMatch", "betterThan": {"candidate": "base"}}
RESULTS = {"base": {"exactMatch": 0.4, "loss": 2.0}, "tuned": {"exactMatch": 0.8, "loss": 1.0}}


@pytest.mark.parametrize(
    ("demand", "value", "words"),
    [
        (Demand("m", min=0.5), 0.5, ""),
        (Demand("m", min=0.5), 0.4, "m 0.4 is below 0.5"),
        (Demand("m", max=0.5), 0.5, ""),
        (Demand("m", max=0.5), 0.6, "m 0.6 is above 0.5"),
        (Demand("m", rival=Rival("candidate a", 0.5)), 0.6, ""),
        (Demand("m", rival=Rival("candidate a", 0.5)), 0.5, "not better than 0.5 of candidate a"),
        (Demand("m", rival=Rival("candidate a", 0.5), lower_is_better=True), 0.4, ""),
        (Demand("m", rival=Rival("candidate a", 0.5), lower_is_better=True), 0.6, "not better"),
        (Demand("m", rival=Rival("candidate a", None)), 0.6, "candidate a has no m"),
        (Demand("m", min=0.5), None, "m has no value"),
        (Demand("m", min=0.5), float("nan"), "m has no value"),
        (Demand("m", impossible="no candidate"), 0.6, "no candidate"),
    ],
    ids=str,
)
def test_a_demand(demand: Demand, value: float | None, words: str):
    (sentence,) = misses([demand], {} if value is None else {"m": value}) or [""]
    assert words in sentence
    assert bool(words) is bool(sentence)


def verdict(results: JsonObject | None = None, **fields: Any) -> JsonObject:
    results = results or RESULTS
    return settle(observed(evaluation(*results, parallelism=4, **fields)), results)


@pytest.mark.parametrize(
    ("thresholds", "winner", "passed"),
    [
        ([], "tuned", "True"),
        ([{"metric": "exactMatch", "min": 0.7}], "tuned", "True"),
        ([{"metric": "exactMatch", "min": 0.9}], None, "False"),
        ([{"metric": "loss", "max": 1.5}], "tuned", "True"),
        ([BETTER], "tuned", "True"),
        ([{"metric": "loss", "betterThan": {"candidate": "base"}}], "tuned", "True"),
        # Who is named must meet it; who isn't, may win without.
        ([{"candidate": "tuned", "metric": "exactMatch", "min": 0.7}], "tuned", "True"),
        ([{"candidate": "tuned", "metric": "exactMatch", "min": 0.9}], "base", "False"),
        ([{"metric": "loss", "min": 1.5}], "base", "True"),
    ],
    ids=str,
)
def test_thresholds_decide_who_can_win(
    thresholds: list[JsonObject], winner: str | None, passed: str
):
    status = verdict(thresholds=thresholds)
    assert status.get("winner") == winner
    assert (condition_of(status, "Passed") or ("",))[0] == passed
    assert status["phase"] == "Succeeded"
    assert condition_of(status, "Ready") == ("True", "Evaluated"), "it did what it was to do"
    assert kstatus(status, 1) == "Current"


def test_a_lower_loss_wins():
    assert verdict(metrics=["loss"])["winner"] == "tuned"
    assert verdict(metrics=["exactMatch"])["winner"] == "tuned"


def test_a_function_says_what_is_better():
    for lower, winner in ((True, "base"), (False, "tuned")):
        reference = {"name": "m", "key": "k"}
        function = {"name": "words", "configMapRef": reference, "lowerIsBetter": lower}
        results = {"base": {"words": 1.0}, "tuned": {"words": 2.0}}
        given = evaluation(*results, metrics=["words"], functions=[function], parallelism=2)
        status = settle(observed(given, functions={"words": "code"}), results)
        assert status["winner"] == winner


def test_equal_values_leave_the_first_one_ahead():
    results = {name: {"exactMatch": 0.5} for name in ("base", "tuned")}
    assert verdict(results)["winner"] == "base"


def test_each_candidate_says_what_it_misses():
    status = verdict(thresholds=[{"metric": "exactMatch", "min": 0.7}])
    base, tuned = candidate(status, "base"), candidate(status, "tuned")
    assert (base["passed"], base["misses"]) == (False, ["exactMatch 0.4 is below 0.7"])
    assert tuned["passed"]
    assert "misses" not in tuned


def test_what_could_not_be_measured_wins_nothing():
    first = not_found(observed(evaluation("base", thresholds=[{"metric": "loss", "max": 9}])))
    broken = summary() | {
        "metrics": {"loss": {"error": "no tokens"}, "exactMatch": {"error": "no references"}}
    }
    begun = replace(first.evaluation, status=decided(first).status)
    ended = run(
        1,
        "succeeded",
        Outcome.model_validate({"status": "succeeded", "reason": "Evaluated", "summary": broken}),
    )
    status = decided(observed(begun, runs={"base": [ended]})).status
    assert candidate(status, "base")["metrics"][1] == {"name": "loss", "error": "no tokens"}
    assert condition_of(status, "Passed") == ("False", "ThresholdsMissed")
    assert "winner" not in status


def gate(holder: Any = None, moved_to: int | None = None, **fields: Any) -> JsonObject:
    models = {"base": registered_model("base", 3), "tuned": registered_model("tuned", 4)}
    given = observed(evaluation(parallelism=2, **PROMOTE, **fields), models=models)
    return settle(given, RESULTS, holder, moved_to)


def test_the_alias_moves_to_the_version_of_the_winner():
    status = gate(version(3), moved_to=4)
    assert condition_of(status, "Promoted") == ("True", "Promoted")
    moved = {"name": "tickets", "alias": "champion", "version": 4, "previous": 3}
    assert status["promoted"] == moved
    assert candidate(status, "tuned")["registered"] == {"name": "tickets", "version": 4}


def test_the_first_alias_needs_nothing_to_beat():
    better = {"metric": "exactMatch", "betterThan": {"alias": "champion"}}
    status = gate(None, moved_to=4, thresholds=[better])
    assert status["promoted"] == {"name": "tickets", "alias": "champion", "version": 4}


def test_the_move_expects_the_version_that_was_judged_against():
    models = {"tuned": registered_model("tuned", 4)}
    given = observed(evaluation("tuned", **PROMOTE), models=models)
    (action,) = decide(given, NOW).actions
    assert isinstance(action, FindEvaluation)
    answers = EvaluationAnswers(
        found={action.digest: tracked()}, alias_sought=True, holder=version(3)
    )
    decision = decide(replace(given, answers=answers), NOW)
    (moving,) = decision.actions
    assert isinstance(moving, MoveAlias)
    assert (moving.move.version, moving.move.expected) == (4, 3)
    assert moving.move.tag == "kubetune.promoted.champion.uid-evaluation-compare"
    assert json.loads(moving.move.note)["from"] == 3
    assert decision.status is not None
    assert decision.status["phase"] == "Registering"


def test_an_alias_that_moved_meanwhile_is_left_there():
    status = gate(version(3), moved_to=7)
    assert condition_of(status, "Promoted") == ("False", "AliasMoved")
    assert condition_of(status, "Passed") == ("True", "ThresholdsMet")
    assert "promoted" not in status


def test_who_is_worse_than_the_holder_of_the_alias_does_not_pass():
    better = {"metric": "loss", "betterThan": {"alias": "champion"}}
    status = gate(version(4), thresholds=[better])
    assert condition_of(status, "Passed") == ("False", "ThresholdsMissed")
    assert condition_of(status, "Promoted") == ("False", "NotPromoted")


def test_the_holder_of_the_alias_must_take_part():
    better = {"metric": "loss", "betterThan": {"alias": "champion"}}
    status = gate(version(1), thresholds=[better])
    assert condition_of(status, "Passed") == ("False", "ThresholdsMissed")
    assert "version 1" in candidate(status, "tuned")["misses"][0]


def test_who_has_the_alias_keeps_it():
    status = gate(version(4))
    assert condition_of(status, "Promoted") == ("True", "Promoted")
    assert "promoted" not in status


def test_a_move_that_an_ended_operator_made_is_found():
    tag = "kubetune.promoted.champion.uid-evaluation-compare"
    code = KEYS.code("alias move", tag, "tickets", "4", "3")
    note = json.dumps({"from": 3, "by": "Evaluation team/compare", "code": code})
    better = {"metric": "loss", "betterThan": {"alias": "champion"}}
    status = gate(version(4, **{tag: note}), thresholds=[better])
    assert condition_of(status, "Passed") == ("True", "ThresholdsMet")
    assert status["promoted"]["previous"] == 3


@pytest.mark.parametrize("before", [None, 3])
def test_a_move_that_somebody_else_has_noted_takes_no_rival_away(before: int | None):
    """Without a version to beat, any candidate would pass."""
    tag = "kubetune.promoted.champion.uid-evaluation-compare"
    code = KEYS.code("alias move", tag, "tickets", "5", str(before))
    note = json.dumps({"from": before, "by": "Evaluation team/compare", "code": code})
    better = {"metric": "loss", "betterThan": {"alias": "champion"}}
    status = gate(version(7, **{tag: note}), thresholds=[better])
    assert condition_of(status, "Passed") == ("False", "ThresholdsMissed")


def test_a_winner_without_a_version_gets_no_alias():
    models = {"base": registered_model("base", 3)}
    given = observed(evaluation(parallelism=2, **PROMOTE), models=models)
    status = settle(given, RESULTS, version(3))
    assert condition_of(status, "Promoted") == ("False", "NotRegistered")


def test_a_named_candidate_is_promoted_though_another_wins():
    named = {"promote": PROMOTE["promote"] | {"candidate": "base"}}
    models = {"base": registered_model("base", 3), "tuned": registered_model("tuned", 4)}
    given = observed(evaluation(parallelism=2, **named), models=models)
    status = settle(given, RESULTS, None, moved_to=3)
    assert status["winner"] == "tuned"
    assert status["promoted"]["version"] == 3


def test_a_server_that_is_away_delays_the_move_only():
    given = observed(evaluation("base", **PROMOTE))
    (action,) = decide(given, NOW).actions
    assert isinstance(action, FindEvaluation)
    answers = EvaluationAnswers(found={action.digest: tracked()}, tracking_error="no answer")
    decision = decide(replace(given, answers=answers), NOW)
    assert condition_of(decision.status, "Ready") == ("False", "TrackingUnreachable")
    assert decision.requeue_after == 10

"""Only what was measured alike is compared, and only what was measured whole is taken over."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from builders import NOW, condition_of
from evaluation_objects import (
    candidate,
    decided,
    evaluation,
    observed,
    started,
    summary,
    tracked,
)
from kubetune.api import JsonObject
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_SUMMARY
from kubetune.decide.decision import FindEvaluation, StartRun
from kubetune.decide.evaluation.observed import EvaluationAnswers, ObservedEvaluation
from kubetune.decide.evaluation.states import decide
from kubetune.tracking.base import TrackedRun
from kubetune.tracking.values import best_evaluation

from tests.believing import anybodys

BETTER = {"metric": "loss", "betterThan": {"candidate": "base"}}


def run_of(metrics: JsonObject | None = None, **fields: Any) -> TrackedRun:
    """A complete run whose summary has these fields; values of ``metrics`` as they are there."""
    left = summary() | fields
    left["metrics"] |= metrics or {}
    return replace(tracked(), tags={TAG_EVALUATION_SUMMARY: json.dumps(left)})


def found(given: ObservedEvaluation, *runs: TrackedRun) -> ObservedEvaluation:
    """The same, after runs of equal inputs were found, one for each candidate."""
    asked = [a.asked for a in decide(given, NOW).actions if isinstance(a, FindEvaluation)]
    return replace(given, answers=EvaluationAnswers(found=dict(zip(asked, runs, strict=True))))


def judged(*runs: TrackedRun, **spec: Any) -> JsonObject:
    given = observed(evaluation("base", "tuned", parallelism=2, **spec))
    return decided(found(given, *runs)).status


def test_rows_that_one_candidate_left_out_decide_nothing():
    wide = run_of({"exactMatch": {"value": 0.1}}, rows=20)
    narrow = run_of({"exactMatch": {"value": 1.0}}, rows=2, skipped=18, rowsDigest="sha256:two")
    status = judged(wide, narrow)
    assert condition_of(status, "Failed") == ("True", "RowsDiffer")
    assert "winner" not in status
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Failed")
    assert "base 20 rows (0 left out), tuned 2 rows (18 left out)" in message
    assert "generation.maxNewTokens" in message


def test_rows_that_all_left_out_alike_are_compared():
    status = judged(*[run_of(rows=2, skipped=18) for _ in range(2)])
    assert status["phase"] == "Succeeded"
    assert candidate(status, "base")["skipped"] == 18


OTHER_TOKENS = (
    run_of({"loss": {"value": 2.0}, "bitsPerByte": {"value": 1.0}}, tokens=100),
    run_of({"loss": {"value": 1.0}, "bitsPerByte": {"value": 1.5}}, tokens=400),
)


@pytest.mark.parametrize("metric", ["loss", "perplexity"])
def test_a_mean_over_other_tokens_decides_nothing(metric: str):
    runs = [
        run_of({metric: {"value": value}}, tokens=tokens)
        for value, tokens in ((2.0, 100), (1.0, 400))
    ]
    status = judged(*runs, metrics=[metric, "exactMatch"])
    assert "winner" not in status
    assert condition_of(status, "Passed") == ("False", "ThresholdsMissed")
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Passed")
    assert "100 in base, 400 in tuned" in message
    assert "bitsPerByte" in message
    shown = {item["name"]: item for item in candidate(status, "tuned")["metrics"]}
    assert "delta" not in shown[metric]
    assert "delta" in shown["exactMatch"]


def test_it_is_not_better_than_another_either():
    better = BETTER | {"candidate": "tuned"}
    status = judged(*OTHER_TOKENS, metrics=["exactMatch", "loss"], thresholds=[better])
    assert condition_of(status, "Passed") == ("False", "ThresholdsMissed")
    assert "mean over tokens" in candidate(status, "tuned")["misses"][0]


def test_bits_per_byte_decide_between_vocabularies():
    status = judged(*OTHER_TOKENS, metrics=["bitsPerByte", "loss"])
    assert status["winner"] == "base"


def test_bits_per_byte_stand_beside_the_loss():
    status = judged(*OTHER_TOKENS, metrics=["exactMatch", "loss"])
    names = [item["name"] for item in candidate(status, "base")["metrics"]]
    assert names == ["exactMatch", "loss", "bitsPerByte"]
    plan = next(
        action.request.plan
        for action in decided(found(observed(evaluation("base")), None)).actions  # type: ignore[arg-type]
        if isinstance(action, StartRun)
    )
    assert plan["metrics"] == ["loss", "bitsPerByte", "exactMatch"]


def test_equal_tokens_let_the_loss_decide():
    runs = [run_of({"loss": {"value": value}}, tokens=100) for value in (2.0, 1.0)]
    assert judged(*runs, metrics=["loss"])["winner"] == "tuned"


def test_a_measurement_with_an_error_is_made_again():
    failed = run_of({"exactMatch": {"error": "help: HTTP 503"}})
    given = found(observed(evaluation("base")), failed)
    decision = decided(given)
    assert started(decision) == ["base"]
    assert "reused" not in candidate(decision.status, "base")
    assert decided(found(observed(evaluation("base")), run_of())).status["phase"] == "Succeeded"


def test_whole_measurements_are_found_behind_newer_ones_that_are_not():
    failed, whole = run_of({"loss": {"error": "away"}}), replace(run_of(), run_id="older")
    begun = replace(tracked(), tags={})
    spoiled = replace(tracked(), tags={TAG_EVALUATION_SUMMARY: "{"})
    assert best_evaluation([begun, spoiled, failed, whole], anybodys) is whole
    assert best_evaluation([begun, failed], anybodys) is failed
    assert best_evaluation([begun], anybodys) is None

"""Judges of an Evaluation: what the run is told, and where its keys come from."""

from __future__ import annotations

import json
from typing import Any

from evaluation_objects import decided, evaluation, not_found, observed
from kubetune.api.metrics.judge import DEFAULT_RUBRIC
from kubetune.api.schema.base import SecretKeyRef
from kubetune.decide.decision import StartRun
from kubetune.decide.evaluation.judges import judge_keys

URL = "https://llm.example.com/v1/"
JUDGES: list[dict[str, Any]] = [
    {
        "name": "tone",
        "baseUrl": URL,
        "model": "large",
        "apiKeySecretRef": {"name": "judge", "key": "apiKey"},
        "rubric": "Is it kind?",
        "scale": {"min": 0, "max": 5},
    },
    {"name": "help", "baseUrl": URL, "model": "small"},
]


def started(judges: list[dict[str, Any]]) -> StartRun:
    metrics = ["exactMatch", *(judge["name"] for judge in judges)]
    given = observed(evaluation("base", judges=judges or None, metrics=metrics))
    actions = decided(not_found(given)).actions
    (start,) = (action for action in actions if isinstance(action, StartRun))
    return start


def test_the_plan_has_everything_but_the_key() -> None:
    request = started(JUDGES).request
    first, second = request.plan["judges"]
    assert first == {
        "name": "help",
        "baseUrl": "https://llm.example.com/v1",
        "model": "small",
        "rubric": DEFAULT_RUBRIC,
        "minimum": 1,
        "maximum": 10,
        "concurrency": 4,
        "timeoutSeconds": 60,
        "maxRetries": 4,
    }
    assert second["keyVariable"] == "KUBETUNE_JUDGE_KEY_1"
    assert (second["rubric"], second["minimum"], second["maximum"]) == ("Is it kind?", 0, 5)
    assert request.tokens == {
        "KUBETUNE_JUDGE_KEY_1": SecretKeyRef.model_validate({"name": "judge", "key": "apiKey"})
    }
    assert "apiKey" not in json.dumps(request.plan)


def test_judges_count_in_the_digest() -> None:
    digests = {
        started(judges).request.plan["digest"]
        for judges in ([], JUDGES[:1], JUDGES, [JUDGES[0] | {"rubric": "Is it short?"}])
    }
    assert len(digests) == 4


def test_without_judges_plans_stay_as_they_were() -> None:
    assert "judges" not in started([]).request.plan
    spec = evaluation("base").spec
    assert spec is not None
    assert judge_keys(spec) == {}

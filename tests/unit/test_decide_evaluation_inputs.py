"""What the operator checks before the candidates of an Evaluation cost anything."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    DATASET_FOUND,
    MISSING_TARGET,
    NOW,
    assert_fits,
    condition_of,
    dataset,
    job,
    kstatus,
    model,
    prompt,
    ready,
    ready_reason,
    target,
)
from evaluation_objects import (
    candidate,
    decided,
    evaluation,
    not_found,
    observed,
    started,
)
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.decide.consent import Lacking
from kubetune.decide.decision import StartRun


@pytest.mark.parametrize(
    ("around", "phase", "reason", "words"),
    [
        ({"dataset": None}, "Pending", "DatasetMissing", "tickets"),
        ({"dataset": dataset()}, "Preparing", "DatasetNotReady", "tickets"),
        ({"target": MISSING_TARGET}, "Pending", "TargetMissing", "main"),
        ({"target": target(ready=False)}, "Preparing", "TargetNotReady", "main"),
        (
            {"lacking": Lacking(Reason.SECRET_MISSING, "waiting for Secret x")},
            "Preparing",
            "SecretMissing",
            "x",
        ),
        ({"models": {"base": None}}, "Pending", "ModelMissing", "candidate base"),
        ({"models": {"base": model(name="base")}}, "Preparing", "ModelNotReady", "candidate base"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_waited_for(around: JsonObject, phase: str, reason: str, words: str):
    decision = decided(observed(evaluation("base"), **around), NOW)
    assert decision.status["phase"] == phase
    assert ready_reason(decision) == ("False", reason)
    assert condition_of(decision.status, "InputsReady") == ("False", reason)
    assert words in str(decision.status["conditions"])
    assert kstatus(decision.status, 1) == "InProgress"
    assert_fits("Evaluation", decision.status)


def test_a_candidate_that_is_not_ready_does_not_keep_others_waiting():
    given = observed(models={"base": model(name="base")})
    decision = decided(not_found(given), NOW)
    assert started(decision) == ["tuned"]
    base = candidate(decision.status, "base")
    assert (base["phase"], base["reason"]) == ("Pending", "ModelNotReady")


TEXT = ready(dataset({"format": "text"}), **DATASET_FOUND | {"columns": [{"name": "text"}]})
PAIRS = [{"name": name} for name in ("prompt", "chosen", "rejected")]
PREFERENCE = ready(dataset({"format": "preference"}), **DATASET_FOUND | {"columns": PAIRS})
NO_ROWS = ready(dataset(), **DATASET_FOUND | {"rows": {"train": 9, "evaluation": 0}})
CML_TRACKING = target(
    kubernetes=None,
    cml={
        "url": "https://ws.example",
        "project": "p",
        "apiKeySecretRef": {"name": "k", "key": "k"},
        "runtime": {"identifier": "image:1"},
    },
    tracking={"type": "cml"},
)
PROMOTE = {"promote": {"name": "tickets", "alias": "champion"}}


@pytest.mark.parametrize(
    ("fields", "around", "reason", "words"),
    [
        ({}, {"dataset": TEXT}, "FormatMismatch", "exactMatch"),
        ({}, {"dataset": PREFERENCE}, "FormatMismatch", "preference"),
        ({}, {"dataset": NO_ROWS}, "InputsRefused", "no evaluation rows"),
        ({}, {"prompt": ready(prompt({"prompt": "{x}"}))}, "SlotUnknown", "{x}"),
        (PROMOTE, {"target": CML_TRACKING}, "RegistryWithoutAliases", "champion"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(fields: JsonObject, around: JsonObject, reason: str, words: str):
    if "prompt" in around:
        fields = fields | {"promptRef": {"name": "plain"}}
    decision = decided(observed(evaluation(**fields), **around), NOW)
    assert condition_of(decision.status, "Stalled") == ("True", reason)
    assert words in str(decision.status["conditions"])
    assert kstatus(decision.status, 1) == "Failed"
    assert started(decision) == []
    assert_fits("Evaluation", decision.status)


def test_rows_without_references_have_a_loss():
    given = observed(evaluation("base", metrics=["loss", "perplexity"]), dataset=TEXT)
    assert started(decided(not_found(given), NOW)) == ["base"]


WORDS: JsonObject = {
    "metrics": ["words", "loss"],
    "functions": [{"name": "words", "configMapRef": {"name": "metrics", "key": "words.py"}}],
}


def test_functions_are_waited_for_and_travel_in_the_plan():
    given = observed(evaluation("base", **WORDS))
    decision = decided(given, NOW)
    assert ready_reason(decision) == ("False", "ConfigMapMissing")
    assert "words.py of ConfigMap metrics" in str(decision.status["conditions"])
    there = not_found(replace(given, functions={"words": "code"}))
    (action,) = [a for a in decided(there, NOW).actions if isinstance(a, StartRun)]
    plan = action.request.plan
    assert plan["metrics"] == ["loss", "bitsPerByte"]
    assert plan["customMetrics"] == [{"name": "words", "source": "code", "timeoutSeconds": 10}]
    other = not_found(replace(given, functions={"words": "other code"}))
    assert set(there.answers.found) != set(other.answers.found)


def test_a_function_that_is_too_long_is_refused():
    given = observed(evaluation("base", **WORDS), functions={"words": "x" * 32769})
    decision = decided(given, NOW)
    assert condition_of(decision.status, "Stalled") == ("True", "InputsRefused")


def test_a_function_that_changes_meanwhile_ends_it():
    given = not_found(observed(evaluation(**WORDS), functions={"words": "code"}))
    status = decided(given, NOW).status
    begun_ = replace(given.evaluation, status=status)
    changed = replace(given, evaluation=begun_, functions={"words": "other"})
    decision = decided(changed, NOW)
    assert condition_of(decision.status, "Failed") == ("True", "DatasetChanged")


LINEAGE = {"datasetDigest": "sha256:d1", "splitDigest": "sha256:s1"}


@pytest.mark.parametrize(
    ("fields", "lineage", "refused"),
    [
        ({}, LINEAGE, False),
        ({}, LINEAGE | {"splitDigest": "sha256:other"}, True),
        ({"split": "train"}, LINEAGE, True),
        ({"split": "train"}, LINEAGE | {"datasetDigest": "sha256:other"}, False),
        ({"split": "train", "allowTrainingRows": True}, LINEAGE, False),
    ],
    ids=str,
)
def test_rows_of_its_own_training_are_refused(
    fields: JsonObject, lineage: JsonObject, refused: bool
):
    trained = job(status={"lineage": lineage})
    given = observed(evaluation("tuned", **fields), around={"tuned": {"job": trained}})
    decision = decided(given, NOW)
    stalled = ("True", "TrainedOnRows") if refused else None
    assert condition_of(decision.status, "Stalled") == stalled
    if refused:
        assert "FineTuneJob tune" in candidate(decision.status, "tuned")["message"]


def test_a_refused_candidate_keeps_the_others_from_costing_anything():
    trained = job(status={"lineage": LINEAGE | {"splitDigest": "sha256:other"}})
    given = not_found(observed(around={"tuned": {"job": trained}}))
    decision = decided(given, NOW)
    assert started(decision) == []
    assert condition_of(decision.status, "Stalled") == ("True", "TrainedOnRows")


SEEN = {"datasetDigest": "sha256:d1", "splitDigest": "sha256:other", "by": "old"}
TAGGED = SEEN | {"toldBy": "tags"}
REGISTERED = {"source": {"registry": {"name": "tickets", "version": 3}}}
OUTPUT = {"source": {"fineTuneJob": {"name": "gone"}}}
KEPT = {"jobOutput": {"name": "gone", "uri": "models:/m-1", "trainedOn": [SEEN]}}
BEHIND: dict[str, JsonObject] = {
    "the tags of its version": {"model": ready(model(REGISTERED), trainedOn=[TAGGED])},
    "a job that is gone": {"model": ready(model(OUTPUT), **KEPT)},
    "what its job began with": {
        "job": job(status={"lineage": LINEAGE | {"trainedOn": [SEEN]}}),
    },
    "its base, by tags": {"base": ready(model(REGISTERED), trainedOn=[TAGGED])},
    "the cluster, and tags": {"model": ready(model(OUTPUT), **KEPT, trainedOn=[TAGGED])},
    "its base's job": {
        "base": ready(model(OUTPUT)),
        "base_job": job(
            status={
                "lineage": LINEAGE | {"splitDigest": "sha256:other"},
                "result": {"modelUri": "models:/m-2"},
            }
        ),
    },
}


@pytest.mark.parametrize("how", BEHIND)
def test_rows_of_training_are_followed_through_whatever_is_known(how: str):
    around = dict(BEHIND[how])
    found = {"models": {"tuned": around.pop("model")}} if "model" in around else {}
    given = observed(evaluation("tuned"), around={"tuned": around}, **found)
    decision = decided(given, NOW)
    assert condition_of(decision.status, "Stalled") == ("True", "TrainedOnRows")
    message = candidate(decision.status, "tuned")["message"]
    assert "FineTuneJob old" in message or "FineTuneJob tune" in message
    # Said as what it is; not where the cluster knows the same.
    assert ("as the tags of its registered version say" in message) == how.endswith(
        ("its version", "by tags")
    )
    allowed = observed(
        evaluation("tuned", allowTrainingRows=True), around={"tuned": around}, **found
    )
    assert condition_of(decided(allowed, NOW).status, "Stalled") is None

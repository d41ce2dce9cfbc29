"""Jobs that start from an adapter, and merged results: named cases of the pure decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    DATASET_FOUND,
    MODEL_FOUND,
    NOW,
    TRACKED,
    VERSION,
    attempt,
    condition_of,
    dataset,
    job,
    model,
    names,
    observed_job,
    ready,
    resource,
    run,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import RunPlan
from kubetune.decide.decision import CreateModel, FindIdentical, Register, StartRun
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve
from kubetune.decide.fine_tune_job.observed import ObservedJob, TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide

SETTINGS: JsonObject = {
    "rank": 8,
    "alpha": 16,
    "dropout": 0.0,
    "targetModules": ["q_proj", "v_proj"],
    "bias": "none",
    "useRslora": False,
    "useDora": False,
}
ADAPTER_FOUND = MODEL_FOUND | {"type": "adapter", "revision": "3", "adapter": SETTINGS}
FROM_REGISTRY: JsonObject = {
    "source": {"registry": {"name": "tickets", "version": 3}},
    "baseModelRef": {"name": "base"},
}


def adapter(**found: Any) -> Any:
    return ready(model(FROM_REGISTRY, name="tuned"), **(ADAPTER_FOUND | found))


def continued(spec: JsonObject, **around: Any) -> ObservedJob:
    given = {"modelRef": {"name": "tuned"}} | spec
    inputs = {"model": adapter(), "base": ready(model(), **MODEL_FOUND)}
    return observed_job(job(given), **(inputs | around))


def inputs_of(spec: JsonObject, **around: Any) -> Inputs:
    inputs = resolve(continued(spec, **around))
    assert isinstance(inputs, Inputs), inputs
    return inputs


ON: JsonObject = {"continueFrom": "adapter"}
MERGED: JsonObject = {"continueFrom": "merged"}


def lora(**settings: Any) -> JsonObject:
    return ON | {"method": {"lora": settings}}


FULL_PROFILE: JsonObject = {
    "profile": resource("TuningProfile", "house", {"method": {"type": "full"}})
}
HOUSE: JsonObject = {"profileRef": {"name": "house"}}

PAIRS: JsonObject = {
    "columns": [{"name": name, "type": "string"} for name in ("prompt", "chosen", "rejected")]
}

REFUSED: dict[str, tuple[JsonObject, JsonObject, str]] = {
    "an adapter without continueFrom": ({}, {}, "set spec.continueFrom to adapter"),
    "a base model with it": (
        ON,
        {"model": ready(model(name="tuned"), **MODEL_FOUND)},
        "is a whole model, not an adapter: remove continueFrom",
    ),
    "settings nobody knows": (
        MERGED,
        {"model": ready(model(FROM_REGISTRY, name="tuned"), **(MODEL_FOUND | {"type": "adapter"}))},
        "no LoRA adapter, or was inspected by an earlier version",
    ),
    "another rank": (lora(rank=16), {}, "method.lora.rank is 16, but Model tuned has 8"),
    "another scale": (lora(alpha=8), {}, "method.lora.alpha is 8, but Model tuned has 16"),
    "DoRA": (lora(useDora=True), {}, "method.lora.useDora is true, but Model tuned has false"),
    "other modules": (
        lora(targetModules=["all-linear"]),
        {},
        "targetModules is all-linear, but Model tuned has q_proj, v_proj",
    ),
    "modules to save": (
        lora(modulesToSave=["lm_head"]),
        {},
        "modulesToSave is lm_head, but Model tuned has empty",
    ),
    "a profile with method full": (ON | HOUSE, FULL_PROFILE, "profile's method.type is full"),
    "a profile that drops rows of another objective": (
        HOUSE | MERGED | {"objective": "dpo"},
        {
            "profile": resource("TuningProfile", "house", {"data": {"longRows": "drop"}}),
            "dataset": ready(dataset({"format": "preference"}), **(DATASET_FOUND | PAIRS)),
        },
        "the profile's data.longRows is drop, which goes with objective sft",
    ),
    "a profile with method full, merged": (
        HOUSE | {"modelRef": {"name": "base"}, "output": {"merge": True}},
        FULL_PROFILE | {"model": ready(model(), **MODEL_FOUND)},
        "spec.output.merge merges an adapter",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    spec, around, words = REFUSED[case]
    decision = decide(continued(spec, **around), NOW)
    status = decision.status or {}
    assert decision.actions == ()
    assert condition_of(status, "InputsReady") == ("False", "InputsRefused")
    assert words in next(c["message"] for c in status["conditions"] if c["type"] == "Ready")


@pytest.mark.parametrize(
    ("base", "reason"), [(None, "ModelMissing"), (model(), "ModelNotReady")], ids=["gone", "waits"]
)
def test_the_base_model_must_be_there(base: Any, reason: str) -> None:
    """It may be gone since the adapter was inspected."""
    decision = decide(continued(ON, base=base), NOW)
    assert condition_of(decision.status, "InputsReady") == ("False", reason)


def test_the_adapter_s_settings_are_in_force() -> None:
    given = {"method": {"lora": {"dropout": 0.1, "rank": 8}}}
    inputs = inputs_of(ON | given)
    expected = SETTINGS | {"dropout": 0.1, "modulesToSave": []}
    assert inputs.settings["method"] == {"type": "lora", "lora": expected}
    plan = RunPlan.model_validate(inputs.plan.to_json())
    assert plan.training.continue_from == "adapter"
    assert plan.training.lora is not None
    assert plan.training.lora.rank == 8
    assert plan.model.registry_uri == "models:/tickets/3"
    assert plan.model.base is not None
    assert plan.model.base.hub is not None


def test_merged_makes_a_new_adapter_with_the_job_s_settings() -> None:
    inputs = inputs_of(MERGED | {"method": {"type": "qlora", "lora": {"rank": 4}}})
    assert inputs.settings["method"]["lora"]["rank"] == 4
    assert inputs.plan.training.continue_from == "merged"


def test_the_result_of_a_job_may_be_its_base() -> None:
    """An adapter of a model that a job trained as a whole and nobody registered."""
    made = model({"source": {"fineTuneJob": {"name": "first"}}})
    first = resource(
        "FineTuneJob",
        "first",
        {"modelRef": {"name": "b"}, "datasetRef": {"name": "d"}},
        status={"result": {"modelUri": "models:/m-7"}},
    )
    inputs = inputs_of(ON, base=ready(made, **MODEL_FOUND), base_job=first)
    assert inputs.plan.model.base is not None
    assert inputs.plan.model.base.registry_uri == "models:/m-7"


def test_the_lineage_tells_starts_apart() -> None:
    around = {"dataset": ready(dataset(), **DATASET_FOUND)}
    digests = [
        inputs_of(spec, **around).lineage["digest"]
        for spec in (
            ON,
            MERGED,
            {**MERGED, "method": {"lora": {"rank": 4}}},
            {**ON, "output": {"merge": True}},
        )
    ]
    digests.append(inputs_of(ON, model=adapter(revision="4")).lineage["digest"])
    other = ready(model(), **(MODEL_FOUND | {"revision": "other"}))
    digests.append(inputs_of(ON, base=other).lineage["digest"])
    assert digests[3] == digests[0], "a merged copy doesn't change the result"
    assert len(set(digests)) == 5


OUTPUT: JsonObject = {"output": {"modelName": "out"}}


@pytest.mark.parametrize(
    ("spec", "base"),
    [(ON, {"name": "base"}), (MERGED, None)],
    ids=["adapter", "merged"],
)
def test_the_output_model_names_the_base(spec: JsonObject, base: JsonObject | None) -> None:
    started = decide(continued(spec | OUTPUT), NOW)
    (start,) = started.actions
    assert isinstance(start, StartRun)
    status = (started.status or {}) | tried(attempt(1, "Running"))
    trained = Outcome(status="succeeded", reason="Trained", summary={"modelId": "m", "runId": "r"})
    given = job({"modelRef": {"name": "tuned"}} | spec | OUTPUT, status=status)
    decision = decide(observed_job(given, runs=[run(1, "succeeded", trained)]), NOW)
    (create,) = decision.actions
    assert isinstance(create, CreateModel)
    assert create.manifest["spec"].get("baseModelRef") == base


MERGE: JsonObject = {
    "output": {"merge": True, "registry": {"name": "house", "alias": "best"}},
}
BOTH = Outcome(
    status="succeeded",
    reason="Trained",
    summary={"modelId": "m-1", "runId": "run-1", "merged": {"modelId": "m-2"}},
)
MERGED_VERSION = replace(VERSION, name="house-merged", version=2, source="models:/m-2")


def ended(spec: JsonObject, outcome: Outcome | None = BOTH, **around: Any) -> Any:
    status = tried(attempt(1, "Running"), lineage={"digest": "sha256:l"})
    status["effective"] = {"method": {"type": "lora"}, "resources": {}}
    given = job(spec | {"reuse": "Never"}, status=status)
    return decide(observed_job(given, runs=[run(1, "succeeded", outcome)], **around), NOW)


def test_the_merged_model_is_registered_before_the_adapter() -> None:
    (first,) = ended(MERGE).actions
    assert isinstance(first, Register)
    assert first.merged
    assert (first.registration.name, first.registration.source) == ("house-merged", "models:/m-2")
    assert first.registration.alias == "best"
    (second,) = ended(MERGE, answers=TrackerAnswers(merged=MERGED_VERSION)).actions
    assert isinstance(second, Register)
    assert not second.merged
    assert (second.registration.name, second.registration.source) == ("house", "models:/m-1")
    done = ended(MERGE, answers=TrackerAnswers(merged=MERGED_VERSION, registered=VERSION))
    assert done.status["phase"] == "Succeeded"
    assert done.status["result"]["merged"] == {
        "registered": {"name": "house-merged", "version": 2},
        "modelUri": "models:/m-2",
    }


def test_another_name_for_the_merged_model() -> None:
    output = {"output": {"merge": True, "registry": {"mergedName": "whole"}}}
    (first,) = ended(output).actions
    assert first.registration.name == "whole"


def test_the_merged_model_is_found_by_the_run_s_tags() -> None:
    tags = {"kubetune.model_id": "m-9", "kubetune.merged_model_id": "m-10"}
    (first,) = ended(MERGE, None, answers=TrackerAnswers(run=replace(TRACKED, tags=tags))).actions
    assert first.registration.source == "models:/m-10"
    alone = replace(TRACKED, tags={"kubetune.model_id": "m-9"})
    lost = ended(MERGE, None, answers=TrackerAnswers(run=alone, run_sought=True))
    assert lost.status["failure"]["reason"] == "ResultMissing"


def test_a_merged_model_without_a_registry_is_told() -> None:
    done = ended({"output": {"merge": True}})
    assert done.status["phase"] == "Succeeded"
    assert done.status["result"]["merged"] == {"modelUri": "models:/m-2"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (TrackerAnswers(), [("house-merged", True)]),
        (TrackerAnswers(identical_merged_sought=True), ["StartRun"]),
        (
            TrackerAnswers(identical_merged=MERGED_VERSION, identical_merged_sought=True),
            [("house", False)],
        ),
        (
            TrackerAnswers(
                identical_merged=MERGED_VERSION,
                identical_merged_sought=True,
                identical_sought=True,
            ),
            ["StartRun"],
        ),
    ],
    ids=["merged first", "no merged one", "then the adapter", "no adapter"],
)
def test_identical_results_are_sought_for_both(
    answers: TrackerAnswers, expected: list[Any]
) -> None:
    decision = decide(observed_job(job(MERGE), answers=answers), NOW)
    found = [
        (action.name, action.merged) if isinstance(action, FindIdentical) else type(action).__name__
        for action in decision.actions
    ]
    assert found == expected


def test_identical_results_are_adopted_together() -> None:
    answers = TrackerAnswers(
        identical=VERSION,
        identical_sought=True,
        identical_merged=MERGED_VERSION,
        identical_merged_sought=True,
    )
    decision = decide(observed_job(job(MERGE), answers=answers), NOW)
    assert names(decision) == []
    assert decision.status is not None
    result = decision.status["result"]
    assert result["reused"] is True
    assert result["merged"]["registered"] == {"name": "house-merged", "version": 2}

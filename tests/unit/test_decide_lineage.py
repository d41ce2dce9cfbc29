"""What changes the lineage digest, and what must not: one table of named cases."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from builders import (
    COLUMNS,
    DATASET_FOUND,
    MODEL_FOUND,
    RUN_KEY,
    dataset,
    job,
    model,
    observed_job,
    prompt,
    ready,
    target,
)
from kubetune.api.run.plan import DatasetPlan, ModelPlan
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve
from kubetune.decide.fine_tune_job.observed import ObservedJob
from kubetune.decide.lineage import lineage
from kubetune.decide.settings.effective import effective_settings, training_plan


def digest(observed: ObservedJob) -> str:
    inputs = resolve(observed)
    assert isinstance(inputs, Inputs), inputs
    assert inputs.plan.lineage_digest == inputs.lineage["digest"]
    return inputs.lineage["digest"]


def registered(name: str, version: int) -> Any:
    spec = {"source": {"registry": {"name": name, "version": version}}}
    return ready(model(spec), **(MODEL_FOUND | {"revision": str(version)}))


def rows(spec: dict[str, Any] | None = None, **found: Any) -> Any:
    return ready(dataset(spec), **(DATASET_FOUND | found))


WITH_TEXT = [*COLUMNS, {"name": "text", "type": "string"}]


PAIRS = rows(
    {"format": "preference"},
    columns=[{"name": name, "type": "string"} for name in ("chosen", "rejected")],
)


MANY = rows(rows={"train": 900_000, "evaluation": 100_000})


@dataclass
class Case:
    name: str
    spec: dict[str, Any] = field(default_factory=dict[str, Any])
    around: dict[str, Any] = field(default_factory=dict[str, Any])


CHANGES = [
    Case("rows", around={"dataset": rows(digest="sha256:other")}),
    Case("split", around={"dataset": rows(splitDigest="sha256:other")}),
    Case("format of the rows", around={"dataset": rows({"format": "text"}, columns=WITH_TEXT)}),
    Case("columns", around={"dataset": rows({"columns": {"prompt": "completion"}})}),
    Case("base revision", around={"model": ready(model(), **(MODEL_FOUND | {"revision": "c1"}))}),
    Case("prompt", around={"prompt": ready(prompt())}),
    Case("hyperparameter", {"hyperparameters": {"learningRate": 1e-3}}),
    Case("long rows", {"data": {"longRows": "drop"}}),
    Case("method", {"method": {"type": "full"}}),
    Case("objective", {"objective": "dpo"}, {"dataset": PAIRS}),
    Case("magnitudes", {"method": {"lora": {"useDora": True}}}),
    Case("modules to save", {"method": {"lora": {"modulesToSave": ["lm_head"]}}}),
    Case("quantization", {"method": {"type": "qlora"}}),
    Case("fraction", {"data": {"fraction": 0.5}}),
    Case("trainer's argument", {"trainer": {"trl": {"arguments": {"tf32": True}}}}),
    Case("evaluation", {"evaluation": {"maxRows": 0}}),
    Case("workers", {"workers": 2}),
    Case("sharding", {"workers": 2, "strategy": "fsdp2"}),
]
KEEPS = [
    Case("target", {"computeTargetRef": {"name": "gpu"}}),
    Case("tracking server", around={"target": target(tracking={"uri": "http://two:5000"})}),
    Case("resources", {"resources": {"gpu": 1, "memory": "64Gi"}}),
    Case("checkpoints", {"checkpoint": {"everySteps": 7, "claimName": "disk"}}),
    Case("retries", {"backoffLimit": 0}),
    Case("what counts as hung", {"progressDeadlineSeconds": 60}),
    Case("deadline", {"activeDeadlineSeconds": 60}),
    Case("output", {"output": {"registry": {"name": "other", "alias": "best"}}}),
    Case("reuse", {"reuse": "Never"}),
    Case("run key", around={"run_key": RUN_KEY[::-1]}),
    Case("default written out", {"hyperparameters": {"epochs": 3.0, "seed": 42}}),
    Case("one worker written out", {"workers": 1}),
]


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.name)
def test_changes(case: Case) -> None:
    if "prompt" in case.around:
        case.spec = {"promptRef": {"name": "plain"}}
    assert digest(observed_job(job(case.spec), **case.around)) != digest(observed_job())


@pytest.mark.parametrize("case", KEEPS, ids=lambda case: case.name)
def test_keeps(case: Case) -> None:
    assert digest(observed_job(job(case.spec), **case.around)) == digest(observed_job())


@pytest.mark.parametrize(
    ("around", "limits", "digests"),
    [
        ({"dataset": MANY}, [{}, {"maxLossRows": 2000}], 1),
        ({"dataset": MANY}, [{}, {"maxLossRows": 2001}], 2),
        ({"dataset": MANY}, [{"maxLossRows": 100_000}, {"maxLossRows": 200_000}], 1),
        ({}, [{}, {"maxLossRows": 10}, {"maxLossRows": 2**31 - 1}], 1),
        ({}, [{}, {"maxLossRows": 9}], 2),
    ],
)
def test_losses_of_other_rows_are_told_apart(
    around: dict[str, Any], limits: list[dict[str, Any]], digests: int
) -> None:
    made = {digest(observed_job(job({"evaluation": limit}), **around)) for limit in limits}
    assert len(made) == digests


def test_equal_numbers_of_two_registered_models_are_two_revisions() -> None:
    one = observed_job(model=registered("one", 1))
    assert digest(one) != digest(observed_job(model=registered("two", 1)))
    assert digest(one) != digest(observed_job(model=registered("one", 2)))


def test_kinds_of_quantization_are_told_apart() -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"type": "fp4"},
        {"doubleQuantization": False},
        {"computeDtype": "bf16"},
        {"bits": 8},
    ]
    methods = [{"type": "qlora", "quantization": kind} for kind in kinds]
    digests = {digest(observed_job(job({"method": method}))) for method in methods}
    assert len(digests) == len(kinds)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({}, "cbc461863cb373625d5e2707b490f605ea26d09653f94faea26e843e5594f9e2"),
        ({"type": "full"}, "ddcba7ecafb0eb16905ba2155fef9ff978a6827475d3f294026fe69d83bd5616"),
        (
            {"lora": {"rank": 8, "useRslora": True}},
            "1bfe765882d1f48d5f3e4d37e2b3074b8c5b8716eee7c1b45d69510b37c85a30",
        ),
    ],
)
def test_new_settings_leave_digests_of_registered_versions_as_they_are(
    method: dict[str, Any], expected: str
) -> None:
    settings = effective_settings({"method": method}, None, None, None)
    found, _ = lineage(
        ModelPlan(name="m", directory="/m"),
        DatasetPlan.model_validate(
            {
                "name": "d",
                "files": {"directory": "/d", "glob": "*", "format": "jsonl"},
                "format": "promptCompletion",
                "columns": {},
                "splits": {},
            }
        ),
        None,
        training_plan(settings, "sft", "k", durable=False),
        held_out=2000,
    )
    assert found["configDigest"] == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("objective", "own"),
    [
        ("dpo", {"beta": 0.2}),
        ("dpo", {"lossType": ["ipo"]}),
        ("dpo", {"labelSmoothing": 0.1, "lossType": ["robust"]}),
        ("dpo", {"lossWeights": [0.5]}),
        ("reward", {"centerRewardsCoefficient": 0.01}),
    ],
)
def test_settings_of_the_objective_change_the_digest(objective: str, own: dict[str, Any]) -> None:
    spec = {"objective": objective}
    plain = digest(observed_job(job(spec), dataset=PAIRS))
    assert digest(observed_job(job(spec | {objective: own}), dataset=PAIRS)) != plain
    assert digest(observed_job(job(spec | {objective: {}}), dataset=PAIRS)) == plain


def test_a_column_that_no_format_before_had_keeps_the_digest_of_the_others() -> None:
    assert "label" not in rows().spec.to_json().get("columns", {})
    mapped = rows({"columns": {}})
    assert digest(observed_job(job(), dataset=mapped)) == digest(observed_job(job()))
    plan = resolve(observed_job(job()))
    assert isinstance(plan, Inputs)
    assert "label" not in plan.plan.dataset.columns.to_json()


def test_rows_behind_what_a_job_starts_from_are_kept_and_count_for_no_digest() -> None:
    """Whoever evaluates the result must not measure it on them."""
    seen = [{"datasetDigest": "sha256:d0", "splitDigest": "sha256:s0", "by": "before"}]
    spec = {"source": {"registry": {"name": "house", "version": 2}}}
    plain = observed_job(job(), model=ready(model(spec), **MODEL_FOUND))
    trained = observed_job(job(), model=ready(model(spec), **MODEL_FOUND, trainedOn=seen))
    inputs = resolve(trained)
    assert isinstance(inputs, Inputs)
    assert inputs.lineage["trainedOn"] == [{**seen[0], "toldBy": "tags"}]
    assert digest(plain) == digest(trained)
    output = {"source": {"fineTuneJob": {"name": "first"}}}
    first = job(status={"lineage": {"datasetDigest": "sha256:d1", "trainedOn": seen}})
    left = {"jobOutput": {"name": "first", "uri": "models:/m-1"}}
    chained = observed_job(
        job(), model=ready(model(output), **MODEL_FOUND, **left), model_job=first
    )
    inputs = resolve(chained)
    assert isinstance(inputs, Inputs)
    assert inputs.lineage["trainedOn"] == [{"datasetDigest": "sha256:d1", "by": "tune"}, *seen]

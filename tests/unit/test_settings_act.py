"""Every typed setting of a training changes what is run, or is refused, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from builders import DATASET_FOUND, NOW, dataset, job, observed_job, ready, resource, target
from kubetune.api import JsonObject
from kubetune.api.crd import structural_schema
from kubetune.api.training.settings import TrainingSettings, merge
from kubetune.decide.fine_tune_job import states as fine_tune_job
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve
from kubetune.decide.waiting import NotReady
from pydantic import ValidationError

PAIRS = ready(
    dataset({"format": "preference"}),
    **DATASET_FOUND
    | {"columns": [{"name": name, "type": "string"} for name in ("prompt", "chosen", "rejected")]},
)
RATED = ready(
    dataset({"format": "unpairedPreference"}),
    **DATASET_FOUND
    | {"columns": [{"name": name, "type": "string"} for name in ("prompt", "completion", "label")]},
)
CHATS = ready(
    dataset({"format": "messages"}),
    **DATASET_FOUND | {"columns": [{"name": "messages", "type": "messages"}]},
)
QLORA: JsonObject = {"method": {"type": "qlora"}}
CLAIM: JsonObject = {"checkpoint": {"claimName": "kept"}}
ROBUST: JsonObject = {"dpo": {"lossType": ["robust"]}}
SEVERAL: JsonObject = {"workers": 2}

ANY_LABEL = target(kubernetes={"image": "runner:1", "gpuLabels": [{"key": "gpu"}]})

SCRIPT: JsonObject = {"trainer": {"script": {"configMapRef": {"name": "c", "key": "train.py"}}}}
SCRIPTED = resource("TuningProfile", "house", SCRIPT)

# Each leaf of TrainingSettings: a value, and what else the job says where it needs that.
ACTS: dict[str, tuple[Any, JsonObject]] = {
    "dpo.beta": (0.5, {"objective": "dpo"}),
    "dpo.lossType": (["ipo"], {"objective": "dpo"}),
    "dpo.lossWeights": ([2.0], {"objective": "dpo"}),
    "dpo.labelSmoothing": (0.1, {"objective": "dpo", **ROBUST}),
    "kto.beta": (0.5, {"objective": "kto"}),
    "kto.lossType": ("apo_zero_unpaired", {"objective": "kto"}),
    "kto.desirableWeight": (2.0, {"objective": "kto"}),
    "kto.undesirableWeight": (2.0, {"objective": "kto"}),
    "reward.centerRewardsCoefficient": (0.01, {"objective": "reward"}),
    "method.type": ("full", {}),
    "method.lora.rank": (4, {"method": {"lora": {"alpha": 32}}}),
    "method.full.weights": ("bf16", {"method": {"type": "full"}}),
    "method.lora.alpha": (8, {}),
    "method.lora.dropout": (0.1, {}),
    "method.lora.targetModules": (["q_proj"], {}),
    "method.lora.bias": ("all", {}),
    "method.lora.useRslora": (True, {}),
    "method.lora.useDora": (True, {}),
    "method.lora.modulesToSave": (["embed_tokens"], {}),
    "method.quantization.bits": (8, QLORA),
    "method.quantization.type": ("fp4", QLORA),
    "method.quantization.doubleQuantization": (False, QLORA),
    "method.quantization.computeDtype": ("fp32", QLORA),
    "data.fraction": (0.5, {}),
    "data.seed": (7, {"data": {"fraction": 0.5}}),
    "data.longRows": ("drop", {}),
    "hyperparameters.epochs": (2.0, {}),
    "hyperparameters.maxSteps": (9, {}),
    "hyperparameters.learningRate": (0.5, {}),
    "hyperparameters.perDeviceBatchSize": (3, {}),
    "hyperparameters.gradientAccumulationSteps": (3, {}),
    "hyperparameters.maxLength": (64, {}),
    "hyperparameters.packing": (True, {}),
    "hyperparameters.scheduler": ("cosine", {}),
    "hyperparameters.warmup": (0.5, {}),
    "hyperparameters.weightDecay": (0.5, {}),
    "hyperparameters.maxGradNorm": (0.5, {}),
    "hyperparameters.precision": ("fp32", {}),
    "hyperparameters.gradientCheckpointing": (True, {}),
    "hyperparameters.loggingSteps": (3, {}),
    "hyperparameters.evaluationSteps": (3, {}),
    "hyperparameters.seed": (7, {}),
    "tokenizer.padToken": ("<pad>", {}),
    "tokenizer.chatTemplate": ("chatml", {}),
    "evaluation.maxRows": (3, {}),
    "evaluation.maxLossRows": (3, {}),
    "evaluation.maxNewTokens": (3, {}),
    "evaluation.baseline": (True, {}),
    "checkpoint.everySteps": (3, CLAIM),
    "checkpoint.everyMinutes": (3, CLAIM),
    "checkpoint.keep": (3, CLAIM),
    "checkpoint.claimName": ("kept", {}),
    "resources.cpu": ("3", {}),
    "resources.memory": ("3Gi", {}),
    "resources.gpu": (1, {}),
    "resources.processes": (2, {}),
    "resources.gpuMemory": ("80Gi", {"resources": {"gpu": 1}}),
    "resources.gpuLabel": ({"gpu": "large"}, {}),
    "workers": (2, {}),
    "strategy": ("fsdp2", SEVERAL),
    "estimate.whenTooLarge": ("Refuse", {}),
    "estimate.tokensPerSecond": (100.0, {"resources": {"gpu": 1}}),
    "progressDeadlineSeconds": (60, {}),
    "backoffLimit": (9, {}),
    "onOutOfMemory": ("HalveBatch", {}),
}
ELSEWHERE = ("trainer.",)
"""Free arguments of trl, and code of the user's own, have tests of their own."""


def leaves(schema: JsonObject, path: str = "") -> Iterator[str]:
    properties: JsonObject = schema.get("properties") or {}
    if not properties:
        yield path
    for name, below in properties.items():
        yield from leaves(below, f"{path}.{name}" if path else name)


def test_every_setting_is_in_the_table() -> None:
    every = set(leaves(structural_schema(TrainingSettings)))
    assert {path for path in every if not path.startswith(ELSEWHERE)} == set(ACTS)


def laid(path: str, value: Any, spec: JsonObject) -> JsonObject:
    given: Any = value
    for name in reversed(path.split(".")):
        given = {name: given}
    return merge(spec, given)


def rows_for(spec: JsonObject, path: str) -> JsonObject:
    if path == "tokenizer.chatTemplate":
        return {"dataset": CHATS}
    found = {"dpo": PAIRS, "reward": PAIRS, "kto": RATED}.get(spec.get("objective", "sft"))
    return {"dataset": found} if found else {}


def run_of(spec: JsonObject, path: str) -> tuple[Any, ...]:
    """What comes of a job with these settings: its run, and what its status says before."""
    observed = observed_job(job(spec), target=ANY_LABEL, **rows_for(spec, path))
    inputs = resolve(observed)
    assert isinstance(inputs, Inputs), inputs
    request = inputs.request(observed, 1, inputs.settings, None)
    status = fine_tune_job.decide(observed, NOW).status or {}
    told = {key: status.get(key) for key in ("effective", "estimate")}
    return (
        inputs.plan.to_json(),
        request.resources.to_json(),
        request.checkpoint_claim,
        request.workers,
        told,
    )


@pytest.mark.parametrize("path", ACTS)
def test_a_setting_changes_the_run(path: str) -> None:
    value, around = ACTS[path]
    assert run_of(laid(path, value, around), path) != run_of(around, path)


NONE_HELD_OUT = {
    "dataset": ready(dataset(), **DATASET_FOUND | {"rows": {"train": 9, "evaluation": 0}})
}
TEXTS = {
    "dataset": ready(
        dataset({"format": "text"}),
        **DATASET_FOUND | {"columns": [{"name": "text", "type": "string"}]},
    )
}


def gated(metric: str, **spec: Any) -> JsonObject:
    rule = {"metric": metric, "min": 0}
    return {"output": {"registry": {"alias": "best", "promoteWhen": [rule]}}} | spec


# What would be in vain: the job, what is around it, and what the refusal says.
IDLE: list[tuple[JsonObject, JsonObject, str]] = [
    ({"objective": "dpo", "dpo": {"labelSmoothing": 0.1}}, {"dataset": PAIRS}, "on loss sigmoid"),
    ({"hyperparameters": {"evaluationSteps": 3}}, NONE_HELD_OUT, "evaluationSteps is about held"),
    ({"evaluation": {"baseline": True}}, NONE_HELD_OUT, "evaluation.baseline is about held-out"),
    ({"evaluation": {"maxRows": 3}}, NONE_HELD_OUT, "evaluation.maxRows is about held-out rows"),
    (
        {"evaluation": {"maxLossRows": 3}},
        NONE_HELD_OUT,
        "evaluation.maxLossRows is about held-out rows",
    ),
    ({"evaluation": {"maxRows": 3}}, TEXTS, "are plain text"),
    ({"data": {"seed": 3}}, {}, "all rows train"),
    (gated("evalLoss"), NONE_HELD_OUT, "has no held-out rows"),
    (gated("baselineEvalLoss"), {}, "evaluation.baseline is false"),
    (gated("exactMatch", evaluation={"maxRows": 0}), {}, "evaluation.maxRows is 0"),
    (gated("tokenF1"), TEXTS, "are plain text"),
    (
        {"onOutOfMemory": "HalveBatch", "hyperparameters": {"perDeviceBatchSize": 1}},
        {},
        "perDeviceBatchSize 1 is the smallest already",
    ),
    (
        {
            "objective": "kto",
            "onOutOfMemory": "HalveBatch",
            "hyperparameters": {"perDeviceBatchSize": 2},
        },
        {"dataset": RATED},
        "perDeviceBatchSize 2 is the smallest already",
    ),
    (
        {
            "onOutOfMemory": "HalveBatch",
            "trainer": {"axolotl": {"config": {"micro_batch_size": 4}}},
        },
        {},
        "axolotl's configuration says micro_batch_size itself",
    ),
    (
        {"onOutOfMemory": "HalveBatch"},
        {"profile": SCRIPTED, "trainer_text": "print()"},
        "what batches a script makes is its own",
    ),
    (
        gated("trainLoss", trainer={"script": {"configMapRef": {"name": "c", "key": "train.py"}}}),
        {"trainer_text": "print()"},
        "a script reports no loss",
    ),
]


@pytest.mark.parametrize(("spec", "around", "words"), IDLE, ids=[case[2] for case in IDLE])
def test_a_setting_in_vain_is_refused(spec: JsonObject, around: JsonObject, words: str) -> None:
    found = resolve(observed_job(job(spec), **around))
    assert isinstance(found, NotReady)
    assert (found.refused, str(found.reason)) == (True, "InputsRefused")
    assert words in found.message


# The same where one object says it all, which admission refuses.
CONTRADICTIONS: list[JsonObject] = [
    {"objective": "dpo", "dpo": {"labelSmoothing": 0.1, "lossType": ["sigmoid", "ipo"]}},
    {"hyperparameters": {"warmup": 0.1, "scheduler": "constant"}},
    {"data": {"fraction": 1, "seed": 3}},
    gated("rouge1"),
    gated("evalRewardsMargins"),
    gated("baselineEvalLoss", objective="dpo"),
    gated("exactMatch", objective="reward"),
    gated("perplexity", objective="kto"),
    {"onOutOfMemory": "HalveBatch"} | SCRIPT,
]


@pytest.mark.parametrize("spec", CONTRADICTIONS, ids=str)
def test_contradictions_are_refused_at_admission(spec: JsonObject) -> None:
    with pytest.raises(ValidationError):
        job(spec)


def test_what_is_asked_for_by_default_is_in_vain_nowhere() -> None:
    for around in ({}, NONE_HELD_OUT, TEXTS):
        assert isinstance(resolve(observed_job(job({}), **around)), Inputs)

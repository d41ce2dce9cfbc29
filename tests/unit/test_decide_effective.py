"""Settings in force: built-in < target < profile < job."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from kubetune.decide.settings.effective import BUILT_IN, effective_settings, training_plan


def settings(
    job: JsonObject | None = None, profile: JsonObject | None = None, **given: Any
) -> JsonObject:
    return effective_settings(
        job or {},
        profile,
        given.get("target"),
        given.get("context"),
        model=given.get("model"),
        chat=given.get("chat", False),
    )


@dataclass
class Case:
    name: str
    because: str
    where: tuple[str, ...]
    expected: Any
    job: JsonObject = field(default_factory=dict[str, Any])
    profile: JsonObject = field(default_factory=dict[str, Any])
    around: JsonObject = field(default_factory=dict[str, Any])


def rate(value: float) -> JsonObject:
    return {"hyperparameters": {"learningRate": value}}


NUMBERS = "hyperparameters"
FULL: JsonObject = {"method": {"type": "full"}}
TEMPLATE = ("tokenizer", "chatTemplate")
QLORA: JsonObject = {"method": {"type": "qlora"}}
CASES = [
    Case("lora by default", "it fits most GPUs", ("method", "type"), "lora"),
    Case("rate of lora", "adapters learn faster", (NUMBERS, "learningRate"), 2e-4),
    Case(
        "full by its settings",
        "only full has them",
        ("method", "type"),
        "full",
        {"method": {"full": {"weights": "bf16"}}},
        {"method": {"type": "lora", "lora": {"rank": 4}}},
    ),
    Case("rate of full", "whole models forget", (NUMBERS, "learningRate"), 2e-5, FULL),
    Case("profile over built-in", "", (NUMBERS, "learningRate"), 0.1, {}, rate(0.1)),
    Case("job over profile", "", (NUMBERS, "learningRate"), 0.2, rate(0.2), rate(0.1)),
    Case(
        "fields are merged one by one",
        "a job that sets one number keeps the profile's others",
        (NUMBERS, "seed"),
        7,
        rate(0.2),
        {"hyperparameters": {"seed": 7}},
    ),
    Case("epochs by default", "neither was given", (NUMBERS, "epochs"), 3.0),
    Case(
        "job's maxSteps replace the profile's epochs",
        "both say when training ends",
        (NUMBERS, "epochs"),
        None,
        {"hyperparameters": {"maxSteps": 5}},
        {"hyperparameters": {"epochs": 2.0}},
    ),
    Case(
        "job's epochs replace the profile's maxSteps",
        "both say when training ends",
        (NUMBERS, "maxSteps"),
        None,
        {"hyperparameters": {"epochs": 2.0}},
        {"hyperparameters": {"maxSteps": 5}},
    ),
    Case(
        "short context",
        "longer rows can't be read",
        (NUMBERS, "maxLength"),
        512,
        {},
        {},
        {"context": 512},
    ),
    Case(
        "long context",
        "memory is the limit",
        (NUMBERS, "maxLength"),
        1024,
        {},
        {},
        {"context": 131072},
    ),
    Case(
        "alpha is twice the rank",
        "",
        ("method", "lora", "alpha"),
        64,
        {"method": {"lora": {"rank": 32}}},
    ),
    Case(
        "alpha of the profile stays",
        "it was set by somebody",
        ("method", "lora", "alpha"),
        8,
        {"method": {"lora": {"rank": 32}}},
        {"method": {"lora": {"alpha": 8}}},
    ),
    Case(
        "full drops the profile's adapter",
        "it has no meaning there",
        ("method", "lora"),
        None,
        FULL,
        {"method": {"type": "lora", "lora": {"rank": 8}}},
    ),
    Case(
        "a job that sets up an adapter gets one",
        "dropping what the user wrote would be a surprise",
        ("method", "type"),
        "lora",
        {"method": {"lora": {"rank": 8}}},
        FULL,
    ),
    Case(
        "qlora without quantization",
        "4 bits are what most mean by it",
        ("method", "quantization"),
        {"bits": 4, "type": "nf4", "doubleQuantization": True},
        QLORA,
    ),
    Case("rate of qlora", "it trains an adapter", (NUMBERS, "learningRate"), 2e-4, QLORA),
    Case("adapter of qlora", "", ("method", "lora", "rank"), 16, QLORA),
    Case(
        "fields of quantization are merged",
        "",
        ("method", "quantization"),
        {"bits": 4, "type": "fp4", "doubleQuantization": False},
        {"method": {"quantization": {"doubleQuantization": False}}},
        {"method": {"type": "qlora", "quantization": {"type": "fp4"}}},
    ),
    Case(
        "8 bits drop what the profile says of 4",
        "it has no meaning there",
        ("method", "quantization"),
        {"bits": 8},
        {"method": {"quantization": {"bits": 8}}},
        {"method": {"type": "qlora", "quantization": {"type": "fp4"}}},
    ),
    Case(
        "what only 4 bits have replaces the profile's 8",
        "dropping what the user wrote would be a surprise",
        ("method", "quantization"),
        {"bits": 4, "type": "fp4", "doubleQuantization": True},
        {"method": {"quantization": {"type": "fp4"}}},
        {"method": {"type": "qlora", "quantization": {"bits": 8}}},
    ),
    Case(
        "a job that sets up quantization gets it",
        "dropping what the user wrote would be a surprise",
        ("method", "type"),
        "qlora",
        {"method": {"quantization": {"bits": 8}}},
        FULL,
    ),
    Case(
        "a job that sets up the adapter keeps the profile's quantization",
        "both are settings of qlora",
        ("method", "quantization", "bits"),
        8,
        {"method": {"lora": {"rank": 8}}},
        {"method": {"type": "qlora", "quantization": {"bits": 8}}},
    ),
    Case(
        "lora drops the profile's quantization",
        "it has no meaning there",
        ("method", "quantization"),
        None,
        {"method": {"type": "lora"}},
        {"method": {"type": "qlora", "quantization": {"bits": 8}}},
    ),
    Case(
        "a job saves no modules though the profile does",
        "an empty list is a value",
        ("method", "lora", "modulesToSave"),
        [],
        {"method": {"lora": {"modulesToSave": []}}},
        {"method": {"lora": {"modulesToSave": ["lm_head"]}}},
    ),
    Case(
        "modules of a mixture of experts",
        "adapters on each expert would be most of the weights",
        ("method", "lora", "targetModules"),
        ["q_proj", "k_proj", "v_proj", "o_proj"],
        around={"model": {"modelType": "mixtral"}},
    ),
    Case(
        "profile over family",
        "",
        ("method", "lora", "targetModules"),
        ["all-linear"],
        {},
        {"method": {"lora": {"targetModules": ["all-linear"]}}},
        {"model": {"modelType": "mixtral"}},
    ),
    Case(
        "no template where there are no chats",
        "it would say something that isn't so",
        ("tokenizer",),
        {"padToken": "<pad>"},
        around={"model": {"padToken": "<pad>", "chatTemplate": True}},
    ),
    Case(
        "the model's own template",
        "it was tuned with it",
        TEMPLATE,
        "model",
        around={"chat": True, "model": {"modelType": "qwen2", "chatTemplate": True}},
    ),
    Case(
        "a template that an old inspection doesn't tell of",
        "replacing one would be worse than a run that finds none",
        TEMPLATE,
        "model",
        around={"chat": True, "model": {"modelType": "qwen2"}},
    ),
    Case(
        "template of the family",
        "the tokenizer has none",
        TEMPLATE,
        "chatml",
        around={"chat": True, "model": {"modelType": "qwen2", "chatTemplate": False}},
    ),
    Case(
        "template of an unknown family",
        "plain text goes with every tokenizer",
        TEMPLATE,
        "plain",
        around={"chat": True, "model": {"modelType": "newest", "chatTemplate": False}},
    ),
    Case(
        "template of the job",
        "",
        TEMPLATE,
        "gemma",
        {"tokenizer": {"chatTemplate": "gemma"}},
        {"tokenizer": {"chatTemplate": "plain", "padToken": "<unk>"}},
        {"chat": True, "model": {"modelType": "qwen2", "chatTemplate": True}},
    ),
    Case(
        "pad token of the profile",
        "somebody knows better",
        ("tokenizer", "padToken"),
        "<unk>",
        {},
        {"tokenizer": {"padToken": "<unk>"}},
        {"model": {"padToken": "<pad>"}},
    ),
    Case("resources of the target", "", ("resources", "gpu"), 1, {}, {}, {"target": {"gpu": 1}}),
    Case(
        "job's resources over the target's",
        "",
        ("resources", "gpu"),
        0,
        {"resources": {"gpu": 0}},
        {},
        {"target": {"gpu": 1}},
    ),
    Case("backoffLimit of the profile", "", ("backoffLimit",), 0, {}, {"backoffLimit": 0}),
    Case(
        "arguments are merged",
        "a profile may bring some",
        ("trainer", "trl", "arguments"),
        {"adam_beta2": 0.9, "tf32": True},
        {"trainer": {"trl": {"arguments": {"tf32": True}}}},
        {"trainer": {"trl": {"arguments": {"adam_beta2": 0.9}}}},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_setting(case: Case) -> None:
    found: Any = settings(case.job, case.profile, **case.around)
    for key in case.where:
        found = found.get(key) if found else None
    assert found == case.expected, case.because


@given(
    st.sampled_from(
        [{}, FULL, QLORA, {"method": {"lora": {"rank": 4}}}, {"method": {"quantization": {}}}]
    ),
    st.sampled_from(
        [
            {},
            FULL,
            {"method": {"type": "lora", "lora": {"alpha": 4}}},
            {"method": {"type": "qlora", "quantization": {"bits": 8}}},
        ]
    ),
    *[st.sampled_from([{}, {"epochs": 1.0}, {"maxSteps": 3}, {"packing": True}])] * 2,
)
def test_every_combination_makes_a_plan(
    job: JsonObject, profile: JsonObject, job_numbers: JsonObject, profile_numbers: JsonObject
) -> None:
    before = repr(BUILT_IN)
    found = settings(job | {NUMBERS: job_numbers}, profile | {NUMBERS: profile_numbers})
    plan = training_plan(found, "sft", "key", durable=False)
    assert (plan.lora is None) == (plan.method == "full")
    assert (plan.quantization is None) == (plan.method != "qlora")
    assert repr(BUILT_IN) == before, "built-in settings are shared"


@pytest.mark.parametrize(
    ("template", "text"),
    [("model", None), ("plain", CHAT_TEMPLATES["plain"]), ("{{ messages }}", "{{ messages }}")],
)
def test_the_plan_has_the_template_itself(template: str, text: str | None) -> None:
    found = settings({"tokenizer": {"chatTemplate": template}}, chat=True)
    plan = training_plan(found, "sft", "key", durable=False)
    assert (plan.tokenizer.chat_template if plan.tokenizer else None) == text


def test_checkpoints_are_kept_where_a_claim_is() -> None:
    with_claim = settings({"checkpoint": {"claimName": "disk"}})
    assert training_plan(with_claim, "sft", "key", durable=True).checkpoint.directory == (
        "/kubetune/checkpoints/key"
    )
    assert training_plan(settings(), "sft", "key", durable=False).checkpoint.directory == (
        "/kubetune/work/checkpoints/key"
    )

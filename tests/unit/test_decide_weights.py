"""What weights in 16 bits don't go with."""

from typing import Any

import pytest
from builders import job, observed_job, resource
from kubetune.api import JsonObject
from kubetune.decide.fine_tune_job.inputs import Inputs, resolve

BF16: JsonObject = {"method": {"type": "full", "full": {"weights": "bf16"}}}


def test_they_are_in_the_plan() -> None:
    inputs = resolve(observed_job(job(BF16)))
    assert isinstance(inputs, Inputs)
    assert inputs.plan.training.weights == "bf16"
    usual = resolve(observed_job(job({"method": {"type": "full", "full": {"weights": "fp32"}}})))
    plain = resolve(observed_job(job({"method": {"type": "full"}})))
    assert isinstance(usual, Inputs)
    assert isinstance(plain, Inputs)
    digests = [each.plan.lineage_digest for each in (inputs, usual, plain)]
    assert digests[0] != digests[1] == digests[2]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"hyperparameters": {"precision": "fp32"}}, "precision is fp32: set it to auto or bf16"),
        ({"hyperparameters": {"precision": "fp16"}}, "precision is fp16: set it to auto or bf16"),
        (
            {"trainer": {"trl": {"arguments": {"optim": "adafactor"}}}},
            "has an optimizer of its own, and trainer.trl.arguments.optim is adafactor",
        ),
        ({"workers": 2, "strategy": "fsdp2"}, "isn't sharded by strategy fsdp2"),
        ({"trainer": {"axolotl": {"config": {}}}}, "is about trainings by trl"),
    ],
)
def test_what_contradicts_them_is_named(spec: JsonObject, told: str) -> None:
    found: Any = resolve(observed_job(job(BF16 | spec)))
    assert not isinstance(found, Inputs)
    assert "method.full.weights bf16" in found.message
    assert told in found.message


def test_a_profile_brings_them_to_jobs_of_its_kind_alone() -> None:
    profile = resource("TuningProfile", "whole", BF16)
    named: JsonObject = {"profileRef": {"name": "whole"}}
    full = resolve(observed_job(job(named), profile=profile))
    lora = resolve(observed_job(job(named | {"method": {"type": "lora"}}), profile=profile))
    assert isinstance(full, Inputs)
    assert isinstance(lora, Inputs)
    assert (full.plan.training.weights, lora.plan.training.weights) == ("bf16", None)

"""The estimate counts the weights that peft makes, from nothing but a model's inspection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import inspection_plan
from kubetune.api.run.training_plan import LoraPlan
from kubetune.decide.memory.peak import Sizes, memory, sizes_of, trainable_parameters
from kubetune.decide.settings.effective import effective_settings
from kubetune_runner.inspection import run
from kubetune_runner.model import adapters
from peft import get_peft_model
from transformers import AutoModelForCausalLM


def inspected(folder: Path) -> Sizes:
    plan = inspection_plan("inspectModel", model={"name": "tiny", "directory": str(folder)})
    found: Any = run(plan).summary
    sizes = sizes_of(found)
    assert sizes is not None
    return sizes


def trains(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    "lora",
    [
        {"rank": 8},
        {"rank": 3, "targetModules": ["q_proj", "down_proj"]},
        {"targetModules": ["family-default"]},
        {"rank": 4, "useDora": True},
        {"rank": 4, "targetModules": ["q_proj"], "modulesToSave": ["embed_tokens"]},
        {"rank": 4, "modulesToSave": ["up_proj"]},
    ],
)
def test_adapters_have_as_many_weights_as_estimated(tiny_model: Path, lora: Any) -> None:
    sizes = inspected(tiny_model)
    method = effective_settings({"method": {"lora": lora}}, None, None, None)["method"]
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = get_peft_model(
        model, adapters.lora_config(model, LoraPlan.model_validate(method["lora"]))
    )
    assert trainable_parameters(sizes, method) == trains(adapted)


def test_all_weights_of_a_real_model(tiny_model: Path) -> None:
    sizes = inspected(tiny_model)
    settings = effective_settings({"method": {"type": "full"}}, None, None, None)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert trainable_parameters(sizes, settings["method"]) == trains(model)
    assert (sizes.layers, sizes.heads, sizes.hidden) == (2, 4, 64)
    peak = memory(sizes, settings, 64)
    assert peak is not None
    assert peak.weights == sum(4 * weight.numel() for weight in model.parameters())

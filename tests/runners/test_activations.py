"""The estimate's bytes per token and layer beside those that torch keeps for backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kubetune.api.run.plan import ModelPlan
from kubetune.decide.memory.peak import Memory, memory, sizes_of
from kubetune.decide.settings.effective import effective_settings
from kubetune_runner.inspection.model import inspect_model
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import LlamaConfig, LlamaForCausalLM

SEQUENCE = 64
LAYERS, BATCHES = (2, 4), (2, 4)


def make_model(layers: int) -> Any:
    config = LlamaConfig(
        hidden_size=128, intermediate_size=352, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=256,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def settings_for(method: str, precision: str, batch: int) -> Any:
    numbers = {"precision": precision, "perDeviceBatchSize": batch, "gradientCheckpointing": False}
    given = {"type": "full", "full": {"weights": "bf16"}} if method == "bf16" else {"type": method}
    job = {"method": given, "hyperparameters": numbers, "resources": {"gpu": 1}}
    return effective_settings(job, None, None, None)


def kept(method: str, precision: str, layers: int, batch: int) -> int:
    """Bytes that a forward leaves for backward, the weights aside."""
    torch.manual_seed(0)
    half = precision == "bf16"
    model = make_model(layers)
    if method == "lora":
        base = model.bfloat16() if half else model
        config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(base, config)
    if method == "bf16":
        model.bfloat16()
    model.train()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    # The tensors stay, else another one may get the address of the former.
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    ids = torch.ones(batch, SEQUENCE, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        # As the runner's trainer does.
        disable_input_dtype_casting(model),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        hidden = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    assert hidden.last_hidden_state.requires_grad
    sizes = {key: tensor.untyped_storage().nbytes() for key, tensor in found.items()}
    return sum(size for key, size in sizes.items() if key not in weights)


def growth(values: dict[tuple[int, int], int]) -> float:
    """Bytes that a token costs in one more layer: whatever comes once is in neither difference."""
    (few, many), (small, large) = LAYERS, BATCHES
    more = values[many, large] - values[many, small] - values[few, large] + values[few, small]
    return more / (many - few) / (large - small) / SEQUENCE


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        *(("lora", "fp32"), ("lora", "bf16"), ("full", "fp32"), ("full", "bf16")),
        ("bf16", "bf16"),  # all weights, which are of this format themselves
    ],
)
def test_activations_are_those_of_the_estimate(tmp_path: Path, method: str, precision: str) -> None:
    measured: dict[tuple[int, int], int] = {}
    estimated: dict[tuple[int, int], int] = {}
    for layers in LAYERS:
        folder = tmp_path / str(layers)
        make_model(layers).save_pretrained(folder)
        model = inspect_model(ModelPlan(name="base", directory=str(folder)), None)
        told: Any = model.to_json()
        sizes = sizes_of(told)
        assert sizes
        for batch in BATCHES:
            measured[layers, batch] = kept(method, precision, layers, batch)
            peak = memory(sizes, settings_for(method, precision, batch), SEQUENCE)
            assert isinstance(peak, Memory)
            estimated[layers, batch] = peak.activations
    assert growth(estimated) == pytest.approx(growth(measured), rel=0.02)

"""Full training with weights in 16 bits: no step is lost, and an attempt goes on exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kubetune.api.run.plan import RunPlan
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.training.compensated import CompensatedAdamW

from tests.runners.conftest import PlanFactory
from tests.runners.fitting import fitted, losses
from tests.runners.test_halved_batch import short_of_memory

STEPS = 300
RATE = 1e-5
"""A usual rate of full training: a hundredth of what a weight of 16 bits can show."""


def stepped(optimizer: Any, weights: list[torch.Tensor], steps: int, first: int = 0) -> None:
    """So many steps with gradients that lead away from zero, and are noisy."""
    for step in range(first, first + steps):
        torch.manual_seed(step)
        for weight in weights:
            weight.grad = (0.5 + torch.randn(weight.shape)).to(weight.dtype)
        optimizer.step()


def given(dtype: torch.dtype) -> list[torch.Tensor]:
    """A matrix as of a layer, and a vector as of a norm, that both formats can show."""
    torch.manual_seed(0)
    matrix = (0.02 * torch.randn(64, 48)).bfloat16()
    return [value.to(dtype, copy=True) for value in (matrix, torch.ones(48).bfloat16())]


def whole(optimizer: CompensatedAdamW, weight: torch.Tensor) -> torch.Tensor:
    return weight.float() + optimizer.state[weight]["rest"].float()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_small_steps_add_up_as_in_fp32(decay: float) -> None:
    exact, half, rounded = (
        given(dtype) for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    )
    options: Any = {"lr": RATE, "weight_decay": decay}
    optimizer = CompensatedAdamW(half, **options)
    stepped(torch.optim.AdamW(exact, **options), exact, STEPS)
    stepped(optimizer, half, STEPS)
    stepped(torch.optim.AdamW(rounded, **options), rounded, STEPS)
    for place, (want, got, lost) in enumerate(zip(exact, half, rounded, strict=True)):
        start = given(torch.float32)[place]
        moved = (want - start).norm()
        # The gradients themselves are of 16 bits.
        assert (whole(optimizer, got) - want).norm() < 0.02 * moved
        assert (lost.float() - want).norm() > 0.2 * moved, "without it they are lost"
        # What others see of the weight is the nearest that it can show.
        assert ((whole(optimizer, got) - got).abs() <= got.abs() / 256).all()


def test_a_saved_state_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    through, parted = given(torch.bfloat16), given(torch.bfloat16)
    options: Any = {"lr": RATE, "weight_decay": 0.01}
    stepped(CompensatedAdamW(through, **options), through, 40)
    first = CompensatedAdamW(parted, **options)
    stepped(first, parted, 25)
    torch.save([parted, first.state_dict()], tmp_path / "state.pt")
    resumed, state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = CompensatedAdamW(resumed, **options)
    second.load_state_dict(state)
    stepped(second, resumed, 15, first=25)
    for want, got in zip(through, resumed, strict=True):
        assert torch.equal(want, got)
    assert second.state[resumed[0]]["exp_avg"].dtype == torch.float32


def full(make_plan: PlanFactory, folder: Path, **training: Any) -> RunPlan:
    document = make_plan(rows=tickets(22)).to_json()
    document["training"].pop("lora")
    document["training"] |= {"method": "full", **training}
    document["training"]["hyperparameters"] |= {"maxSteps": 8, "learningRate": 1e-4}
    document["training"]["checkpoint"] |= {"everySteps": 3, "directory": str(folder)}
    return RunPlan.model_validate(document)


@pytest.mark.training
def test_a_training_in_bf16_is_like_one_in_fp32_and_goes_on(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = fitted(full(make_plan, tmp_path / "exact"))
    through, _ = fitted(full(make_plan, tmp_path / "through", weights="bf16"))
    trained: Any = through.model
    assert {weight.dtype for weight in trained.parameters()} == {torch.bfloat16}
    assert through.args.bf16, "the computation is of the weights' format"
    optimizer: Any = through.optimizer
    assert isinstance(getattr(optimizer, "optimizer", optimizer), CompensatedAdamW)
    expected = losses(through)
    assert expected == pytest.approx(losses(exact), rel=0.02)
    assert expected[-1] < expected[0]
    broken = full(make_plan, tmp_path / "broken", weights="bf16")
    with monkeypatch.context() as patch:
        short_of_memory(patch, 5)
        with pytest.raises(torch.OutOfMemoryError):
            fitted(broken)
    again, _ = fitted(broken)
    assert losses(again)[3:] == expected[3:], "from step 3 on, to the last bit"

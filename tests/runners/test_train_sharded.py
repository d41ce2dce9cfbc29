"""Every objective learns with sharded weights what it learns with whole ones."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from kubetune.api.run.plan import RunPlan
from kubetune_runner.training import objectives

from tests.runners.conftest import PlanFactory
from tests.runners.test_train_objectives import plan_for
from tests.runners.test_train_workers import result, small, told
from tests.runners.worker_processes import run_workers

pytestmark = pytest.mark.training


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("objective", ["dpo", "kto", "reward"])
def test_two_workers_learn_preferences_with_sharded_weights(
    make_plan: PlanFactory, tmp_path: Path, objective: str, method: str
) -> None:
    objectives.load(objective)
    found: list[tuple[list[float], dict[str, torch.Tensor]]] = []
    for strategy in ("ddp", "fsdp2"):
        folder = tmp_path / strategy
        document = plan_for(make_plan, objective, method).to_json()
        document |= {"workers": 2, "strategy": strategy}
        document["training"]["hyperparameters"] |= {"perDeviceBatchSize": 2, "maxSteps": 4}
        document["training"]["checkpoint"]["directory"] = str(folder)
        outcomes = run_workers(RunPlan.model_validate(document))
        assert told(*outcomes) == ["TrackingUnavailable", "Trained"], outcomes
        found.append(result(folder, 4))
    (losses, weights), (sharded, sharded_weights) = found
    assert sharded == pytest.approx(losses, rel=1e-4)
    for name, values in weights.items():
        torch.testing.assert_close(sharded_weights[name], values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.exhaustive)])
def test_two_workers_learn_on_quantized_weights_that_are_sharded(
    make_plan: PlanFactory, tmp_path: Path, precision: str
) -> None:
    objectives.load("sft")
    found: list[list[float]] = []
    for strategy in ("ddp", "fsdp2"):
        quantization = {"bits": 4, "type": "nf4", "doubleQuantization": True}
        plan = small(
            make_plan,
            tmp_path / strategy,
            2,
            method="qlora",
            quantization=quantization,
            hyperparameters={"precision": precision},
        )
        outcomes = run_workers(plan.model_copy(update={"strategy": strategy}))
        assert told(*outcomes) == ["TrackingUnavailable", "Trained"], outcomes
        found.append(result(tmp_path / strategy, 4)[0])
    # In 16 bits the two round differently.
    assert found[1] == pytest.approx(found[0], rel=1e-4 if precision == "fp32" else 5e-3)


@pytest.mark.exhaustive
def test_training_on_quantized_weights_that_are_sharded_goes_on(
    make_plan: PlanFactory, tmp_path: Path
) -> None:
    def tell(rank: int, step: int) -> None:
        if (rank, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    objectives.load("sft")
    quantization = {"bits": 4, "type": "nf4", "doubleQuantization": True}
    losses: list[list[float]] = []
    for stops in (False, True):
        folder = tmp_path / str(stops)
        plan = small(make_plan, folder, 2, method="qlora", quantization=quantization)
        plan = plan.model_copy(update={"strategy": "fsdp2"})
        if stops:
            assert told(*run_workers(plan, tell)) == ["Interrupted", "Interrupted"]
        assert told(*run_workers(plan)) == ["TrackingUnavailable", "Trained"]
        losses.append(result(folder, 4)[0])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

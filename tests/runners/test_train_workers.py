"""Two workers learn what one does, and end together."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import RunPlan
from kubetune_runner.training import objectives
from safetensors.torch import load_file

from tests.runners.conftest import PlanFactory
from tests.runners.test_train_objectives import plan_for
from tests.runners.worker_processes import run_workers

pytestmark = pytest.mark.training


def told(*outcomes: Outcome | None) -> list[str | None]:
    """Why each worker ended; None for one that was killed."""
    return [outcome and outcome.reason for outcome in outcomes]


CHECKPOINTING = {"hyperparameters": {"gradientCheckpointing": True}}
FULL = {"method": "full", "hyperparameters": {"learningRate": 0.001}}


def small(make_plan: PlanFactory, folder: Path, workers: int, **training: Any) -> RunPlan:
    """Four steps of four rows in all, nothing generated."""
    numbers = {"perDeviceBatchSize": 4 // workers, "maxSteps": 4, "precision": "fp32"}
    over = {
        **training,
        "hyperparameters": numbers | training.get("hyperparameters", {}),
        "checkpoint": {"directory": str(folder)},
        "evaluation": {"maxRows": 0},
    }
    return make_plan(workers=workers, training=over)


def result(folder: Path, step: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of a checkpoint."""
    checkpoint = folder / f"checkpoint-{step}"
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text())
    weights = next(checkpoint.glob("*model.safetensors"))
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    return losses, load_file(weights)


@pytest.mark.parametrize(
    ("training", "strategy"),
    [
        pytest.param({}, "ddp", id="lora-ddp"),
        pytest.param(CHECKPOINTING, "fsdp2", id="checkpointing-fsdp2"),
        pytest.param(FULL, "fsdp2", id="full-fsdp2"),
        pytest.param({}, "fsdp2", id="lora-fsdp2", marks=pytest.mark.exhaustive),
        pytest.param(CHECKPOINTING, "ddp", id="checkpointing-ddp", marks=pytest.mark.exhaustive),
        pytest.param(FULL, "ddp", id="full-ddp", marks=pytest.mark.exhaustive),
    ],
)
def test_two_workers_learn_what_one_with_twice_the_batch_does(
    make_plan: PlanFactory, tmp_path: Path, training: dict[str, Any], strategy: str
) -> None:
    objectives.load("sft")
    found: list[tuple[list[float], dict[str, torch.Tensor]]] = []
    for workers in (1, 2):
        folder = tmp_path / f"of-{workers}"
        plan = small(make_plan, folder, workers, **training)
        plan = plan.model_copy(update={"strategy": strategy})
        expected = ["TrackingUnavailable", *["Trained"] * (workers - 1)]
        assert told(*run_workers(plan)) == expected
        found.append(result(folder, 4))
    (losses, weights), (shared_losses, shared_weights) = found
    assert shared_losses == pytest.approx(losses, rel=1e-4)
    # Tied weights stand twice in a checkpoint that was put together from parts.
    assert shared_weights.keys() >= weights.keys()
    for name, values in weights.items():
        torch.testing.assert_close(shared_weights[name], values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "kto", "reward"])
def test_two_workers_learn_preferences(
    make_plan: PlanFactory, tmp_path: Path, objective: str
) -> None:
    objectives.load(objective)
    found: list[list[float]] = []
    for workers in (1, 2):
        folder = tmp_path / f"of-{workers}"
        document = plan_for(make_plan, objective).to_json()
        document["workers"] = workers
        numbers = {"perDeviceBatchSize": 4 // workers, "maxSteps": 4}
        document["training"]["hyperparameters"] |= numbers
        document["training"]["checkpoint"]["directory"] = str(folder)
        outcomes = run_workers(RunPlan.model_validate(document))
        assert told(*outcomes) == ["TrackingUnavailable", *["Trained"] * (workers - 1)]
        found.append(result(folder, 4)[0])
    # What kto compares an answer with is of the worker's own rows.
    assert found[1] == pytest.approx(found[0], rel=1e-3 if objective != "kto" else 0.5)


def test_a_worker_that_dies_ends_the_others(make_plan: PlanFactory, tmp_path: Path) -> None:
    def die(rank: int, step: int) -> None:
        if (rank, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    objectives.load("sft")
    outcomes = run_workers(small(make_plan, tmp_path / "checkpoints", 2), die)
    assert told(*outcomes) == ["WorkerLost", None]
    assert outcomes[0]
    assert outcomes[0].retryable


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.exhaustive), "fsdp2"])
def test_a_signal_to_one_stops_all_after_the_same_step_and_the_next_attempt_goes_on(
    make_plan: PlanFactory, tmp_path: Path, strategy: str
) -> None:
    def tell(rank: int, step: int) -> None:
        if (rank, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)

    objectives.load("sft")
    through, broken = tmp_path / "through", tmp_path / "broken"
    run_workers(small(make_plan, through, 2))
    plan = small(make_plan, broken, 2).model_copy(update={"strategy": strategy})
    assert told(*run_workers(plan, tell)) == ["Interrupted", "Interrupted"]
    assert (broken / "checkpoint-2" / "kubetune.json").exists()
    assert told(*run_workers(plan)) == ["TrackingUnavailable", "Trained"]
    assert result(broken, 4)[0] == pytest.approx(result(through, 4)[0], rel=1e-4)
    # What was trained is taken over by an attempt that has only to upload it.
    assert told(*run_workers(plan)) == ["TrackingUnavailable", "Trained"]

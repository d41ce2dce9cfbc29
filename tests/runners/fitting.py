"""Trainings in the tests' own process, as the runner does them."""

from __future__ import annotations

from typing import Any

from kubetune.api.run.plan import RunPlan
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import fit, make_trainer
from kubetune_runner.training.inputs import prepare


def fitted(plan: RunPlan, tracker: Tracker | None = None) -> tuple[Any, Any]:
    """Trainer and inputs after training; reports go nowhere without a tracker that was started."""
    inputs = prepare(plan)
    trainer, progress = make_trainer(plan, inputs, StopSignal(), tracker or Tracker(plan))
    fit(plan, StopSignal(), trainer, progress)
    return trainer, inputs


def losses(trainer: Any) -> list[float]:
    """The loss of each step that was logged."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

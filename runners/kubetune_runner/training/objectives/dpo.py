"""Objective dpo: make chosen answers likelier than rejected ones, without going far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from kubetune.api.run.training_plan import TrainingPlan
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from kubetune_runner.text.preferences import EncodedPair
from kubetune_runner.tokenized.encoders import Pairs
from kubetune_runner.tokenized.table import as_dataset
from kubetune_runner.training.objectives.base import BatchMeans, PreferenceObjective


class DpoRun(BatchMeans, DPOTrainer):
    """DPOTrainer on encoded pairs."""


class Dpo(PreferenceObjective):
    """Direct preference optimisation."""

    configuration = DPOConfig
    trainer = DpoRun
    metrics = (
        "rewards/accuracies",
        "rewards/margins",
        "rewards/chosen",
        "rewards/rejected",
    )

    def arguments(self, plan: TrainingPlan) -> dict[str, Any]:
        """The settings of objective dpo."""
        own = plan.dpo
        assert own is not None, "the plan's rules ask for it"
        return super().arguments(plan) | {
            "beta": own.beta,
            "loss_type": list(own.loss_type),
            "loss_weights": own.loss_weights,
            "label_smoothing": own.label_smoothing,
        }

    def table(self, rows: Sequence[EncodedPair], plan: TrainingPlan) -> Dataset:
        """Token ids of prompt, chosen and rejected answer."""
        return as_dataset(rows, Pairs(whole=False), ("prompt_ids", "chosen_ids", "rejected_ids"))


OBJECTIVE = Dpo()

"""Objective reward: a model that gives chosen answers a higher score than rejected ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from kubetune.api.run.training_plan import TrainingPlan
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from kubetune_runner.text.preferences import EncodedPair
from kubetune_runner.tokenized.encoders import Pairs
from kubetune_runner.tokenized.table import as_dataset
from kubetune_runner.training.objectives.base import BatchMeans, PreferenceObjective


class RewardRun(BatchMeans, RewardTrainer):
    """RewardTrainer on encoded pairs."""


class Reward(PreferenceObjective):
    """A reward model."""

    configuration = RewardConfig
    trainer = RewardRun
    reference = False
    metrics = ("accuracy", "margin", "mean_reward")

    def arguments(self, plan: TrainingPlan) -> dict[str, Any]:
        """The settings of objective reward."""
        own = plan.reward
        assert own is not None, "the plan's rules ask for it"
        return super().arguments(plan) | {
            "center_rewards_coefficient": own.center_rewards_coefficient
        }

    def table(self, rows: Sequence[EncodedPair], plan: TrainingPlan) -> Dataset:
        """Token ids of the prompt with each of the answers."""
        return as_dataset(rows, Pairs(whole=True), ("chosen_ids", "rejected_ids"))


OBJECTIVE = Reward()

"""Objective kto: make answers labelled true likelier and others less likely."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, concatenate_datasets
from kubetune.api.run.training_plan import TrainingPlan
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from kubetune_runner.text.preferences import EncodedRated
from kubetune_runner.tokenized.encoders import Rated
from kubetune_runner.tokenized.table import as_dataset
from kubetune_runner.training.objectives.base import BatchMeans, PreferenceObjective


class KtoRun(BatchMeans, KTOTrainer):
    """KTOTrainer on encoded answers."""

    def held_out_metrics(self) -> dict[str, float]:
        """The margin between means: a batch may have answers of one label alone."""
        found = super().held_out_metrics()
        sides = [found.get(f"rewards/{side}") for side in ("chosen", "rejected")]
        found.pop("rewards/margins", None)
        if sides[0] is not None and sides[1] is not None:
            found["rewards/margins"] = sides[0] - sides[1]
        return found

    def rows_behind(self, metric: str, rows: list[dict[str, Any]]) -> float:
        """Those of one label, for metrics of chosen or rejected answers."""
        good = sum(row["label"] for row in rows)
        if metric.endswith("/chosen"):
            return good
        return len(rows) - good if metric.endswith("/rejected") else len(rows)


class Kto(PreferenceObjective):
    """Kahneman-Tversky optimisation."""

    configuration = KTOConfig
    trainer = KtoRun
    metrics = ("rewards/margins", "rewards/chosen", "rewards/rejected", "kl")

    def arguments(self, plan: TrainingPlan) -> dict[str, Any]:
        """The settings of objective kto."""
        own = plan.kto
        assert own is not None, "the plan's rules ask for it"
        return super().arguments(plan) | {
            "beta": own.beta,
            "loss_type": own.loss_type,
            "desirable_weight": own.desirable_weight,
            "undesirable_weight": own.undesirable_weight,
        }

    def table(self, rows: Sequence[EncodedRated], plan: TrainingPlan) -> Dataset:
        """Token ids of prompt and answer, the label and, in each batch, another row's answer.

        trl trains in the table's order, since it compares a prompt's answer with one that
        belongs to another prompt of the batch: data that is sorted by label must be mixed here.
        """
        mixed = list(range(len(rows)))
        random.Random(plan.hyperparameters.seed).shuffle(mixed)  # noqa: S311 - not a secret
        size = plan.hyperparameters.per_device_batch_size
        others: list[int] = []
        for start in range(0, len(mixed), size):
            batch = mixed[start : start + size]
            # A last batch of one row has no other answer of its own.
            before = batch[-1] if len(batch) > 1 else mixed[start - 1]
            others += [before, *batch[:-1]]
        columns = ("prompt_ids", "completion_ids", "label")
        table = as_dataset(rows, Rated(), columns)
        mixed_table = table.select(mixed)
        if not (plan.kto and plan.kto.loss_type == "kto"):
            return mixed_table
        compared = table.select_columns(["completion_ids"]).select(others)
        compared = compared.rename_column("completion_ids", "KL_completion_ids")
        return concatenate_datasets([mixed_table, compared], axis=1)


OBJECTIVE = Kto()

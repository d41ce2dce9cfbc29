"""Objective kto: make answers labelled true likelier and others less likely."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from kubetune.api.run.plan import RunPlan
from kubetune.api.run.training_plan import TrainingPlan
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from kubetune_runner.data import Place, Row
from kubetune_runner.text.encoding import EncodedRows
from kubetune_runner.text.preferences import EncodedRated, encode_rated
from kubetune_runner.training.objectives.base import BatchMeans, PreferenceObjective, are_chats


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

    def encode(
        self,
        rows: Sequence[Row],
        places: Sequence[Place],
        plan: RunPlan,
        tokenizer: Any,
        columns: Sequence[str],
    ) -> tuple[EncodedRows[Any], bool]:
        """Single answers."""
        dataset, limit = plan.dataset, plan.training.hyperparameters.max_length
        refuses = bool(dataset.refuse_hidden)
        encoded = encode_rated(
            rows, dataset.columns, tokenizer, limit, places, refuse_hidden=refuses
        )
        return encoded, are_chats(rows, dataset.columns.of("completion"))

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
        mixed = list(rows)
        random.Random(plan.hyperparameters.seed).shuffle(mixed)  # noqa: S311 - not a secret
        size = plan.hyperparameters.per_device_batch_size
        others: list[list[int]] = []
        for start in range(0, len(mixed), size):
            batch = [row.completion_ids for row in mixed[start : start + size]]
            # A last batch of one row has no other answer of its own.
            before = batch[-1] if len(batch) > 1 else mixed[start - 1].completion_ids
            others += [before, *batch[:-1]]
        columns: dict[str, list[Any]] = {
            "prompt_ids": [row.prompt_ids for row in mixed],
            "completion_ids": [row.completion_ids for row in mixed],
            "label": [row.label for row in mixed],
        }
        if plan.kto and plan.kto.loss_type == "kto":
            columns["KL_completion_ids"] = others
        return Dataset.from_dict(columns)


OBJECTIVE = Kto()

"""What an objective is to a run, and what the trainers of those that compare answers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset
from kubetune.api.run.training_plan import TrainingPlan
from transformers import TrainingArguments
from trl.trainer.utils import disable_dropout_in_model

from kubetune_runner.training.held_out import Evaluation
from kubetune_runner.training.trainer import RunTrainer

__all__ = ["BatchMeans", "Evaluation", "Objective", "PreferenceObjective"]


@dataclass(frozen=True)
class Measure:
    """What an evaluation needs besides the trainer."""

    tokenizer: Any
    rows: Sequence[Any]
    """The encoded held-out rows."""
    plan: TrainingPlan
    context: int | None


class Objective(ABC):
    """One thing that can be optimised."""

    configuration: ClassVar[type[TrainingArguments]]
    """trl's configuration class."""
    trainer: ClassVar[type[RunTrainer]]

    @abstractmethod
    def arguments(self, plan: TrainingPlan) -> dict[str, Any]:
        """Arguments of the configuration that only this objective has."""

    @abstractmethod
    def table(self, rows: Sequence[Any], plan: TrainingPlan) -> Dataset:
        """Encoded rows as the table that the trainer reads."""

    @abstractmethod
    def evaluate(self, trainer: Any, measure: Measure) -> Evaluation:
        """Measure the trainer's model on the held-out rows as it is now."""

    def options(self, plan: TrainingPlan, model: Any, again: Callable[[], Any]) -> dict[str, Any]:
        """Further options of the trainer; ``again`` loads the model once more."""
        return {}


class PreferenceObjective(Objective):
    """An objective that compares answers and reports how well it tells them apart."""

    metrics: ClassVar[tuple[str, ...]]
    """trl's names of what is reported of held-out rows, besides the loss."""
    reference: ClassVar[bool] = True
    """Whether answers are weighed against the untrained model."""

    def arguments(self, plan: TrainingPlan) -> dict[str, Any]:
        """No dropout but the adapter's, which ``options`` leaves alone."""
        return {"disable_dropout": False}

    def options(self, plan: TrainingPlan, model: Any, again: Callable[[], Any]) -> dict[str, Any]:
        """The reference, where switching the adapter off doesn't give it."""
        disable_dropout_in_model(model)
        if not self.reference or plan.method != "full":
            return {}
        if plan.arguments.get("precompute_ref_log_probs"):
            return {}
        reference = again()
        disable_dropout_in_model(reference)
        return {"ref_model": reference}

    def evaluate(self, trainer: Any, measure: Measure) -> Evaluation:
        """Loss and the objective's own metrics, under the names they have in training."""
        found: Mapping[str, float] = trainer.held_out_metrics() if trainer.loss_rows else {}
        wanted = ("loss", *self.metrics)
        metrics = {f"eval_{name}": found[name] for name in wanted if name in found}
        return Evaluation(metrics, [], [], loss_rows=trainer.loss_rows)


class BatchMeans(RunTrainer):
    """Held-out metrics as means over rows: trl's own are means over batches of any size."""

    def held_out_metrics(self) -> dict[str, float]:
        """Loss and trl's metrics of all held-out rows."""
        model: Any = self.model
        collected: dict[str, list[float]] = self._metrics["eval"]
        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        training = model.training
        model.eval()
        collected.clear()
        held_out: Any = self.eval_dataset
        size = self.args.per_device_eval_batch_size
        for start in range(0, len(held_out), size):
            rows = [held_out[at] for at in range(start, min(start + size, len(held_out)))]
            inputs: Any = self._prepare_inputs(self.data_collator(rows))
            with torch.no_grad(), self.compute_loss_context_manager():
                loss: Any = self.compute_loss(model, inputs)
            found = {"loss": loss.item(), **{name: seen[-1] for name, seen in collected.items()}}
            collected.clear()
            for name, value in found.items():
                weight = self.rows_behind(name, rows)
                if not weight:
                    # Not a number, which is no fault of the weights.
                    continue
                sums[name] = sums.get(name, 0.0) + weight * value
                weights[name] = weights.get(name, 0.0) + weight
            self.measured(start + len(rows))
        model.train(training)
        return {name: total / weights[name] for name, total in sums.items() if weights[name]}

    def rows_behind(self, metric: str, rows: list[dict[str, Any]]) -> float:
        """How many rows of a batch a metric is a mean over."""
        return len(rows)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """Rows are encoded already."""
        return dataset

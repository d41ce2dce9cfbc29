"""Objective sft: imitate the answers, or the texts, of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from kubetune.api.run.training_plan import TrainingPlan
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from kubetune_runner.text.encoding import EncodedRow
from kubetune_runner.tokenized.encoders import Texts
from kubetune_runner.tokenized.table import as_dataset, by_length
from kubetune_runner.training.held_out import Evaluation, evaluate
from kubetune_runner.training.losses import token_loss
from kubetune_runner.training.objectives.base import Measure, Objective
from kubetune_runner.training.trainer import RunTrainer


class SftRun(RunTrainer, SFTTrainer):
    """SFTTrainer with a held-out loss that is a mean over tokens, whatever the batches are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        tokenizer: Any = options["processing_class"]
        self._collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        self.held_out: Sequence[EncodedRow] = by_length(self.encoded)

    def held_out_metrics(self) -> dict[str, float]:
        """The held-out loss."""
        return {"loss": self.held_out_loss()}

    def held_out_loss(self) -> float:
        """Negative log-likelihood per labelled token, over the held-out rows."""
        model: Any = self.model

        def batch(rows: list[EncodedRow]) -> dict[str, Any]:
            columns = [{"input_ids": row.input_ids, "labels": row.labels} for row in rows]
            return self._prepare_inputs(self._collate.torch_call(columns))

        training = model.training
        model.eval()
        with self.compute_loss_context_manager():
            loss = token_loss(
                model,
                self.held_out,
                self.args.per_device_eval_batch_size,
                batch,
                self.measured,
            )
        model.train(training)
        return loss


class Sft(Objective):
    """Supervised fine-tuning."""

    configuration = SFTConfig
    trainer = SftRun

    def arguments(self, plan: TrainingPlan) -> dict[str, Any]:
        """Rows come with labels and cut to length; only packing is left to trl."""
        packing = plan.hyperparameters.packing
        return {
            "packing": packing,
            # The others cut rows in two, and lose which belongs to which.
            "packing_strategy": "bfd",
            "eval_packing": False,
            "dataset_kwargs": {"skip_prepare_dataset": not packing},
        }

    def table(self, rows: Sequence[EncodedRow], plan: TrainingPlan) -> Dataset:
        """Token ids and labels."""
        return as_dataset(rows, Texts(), ("input_ids", "labels"))

    def evaluate(self, trainer: Any, measure: Measure) -> Evaluation:
        """Loss and, where there are answers, how often the generated one is right."""
        return evaluate(
            trainer,
            measure.tokenizer,
            measure.rows,
            measure.plan.evaluation,
            measure.context,
        )


OBJECTIVE = Sft()

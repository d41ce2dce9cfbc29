"""Objective sft: imitate the answers, or the texts, of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from kubetune.api.run.plan import RunPlan
from kubetune.api.run.training_plan import TrainingPlan
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from kubetune_runner.data import Place, Row
from kubetune_runner.text.encoding import EncodedRow, EncodedRows, encode
from kubetune_runner.text.prompts import make_examples
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
        rows: list[EncodedRow] = self.encoded
        self.held_out = sorted(rows, key=lambda row: len(row.input_ids))

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
            loss = token_loss(model, self.held_out, self.args.per_device_eval_batch_size, batch)
        model.train(training)
        return loss


class Sft(Objective):
    """Supervised fine-tuning."""

    configuration = SFTConfig
    trainer = SftRun

    def encode(
        self,
        rows: Sequence[Row],
        places: Sequence[Place],
        plan: RunPlan,
        tokenizer: Any,
        columns: Sequence[str],
    ) -> tuple[EncodedRows[Any], bool]:
        """Texts, and prompts with their answers."""
        examples = make_examples(rows, plan.dataset, plan.prompt, places, columns)
        encoded = encode(
            examples,
            tokenizer,
            plan.training.hyperparameters.max_length,
            plan.training.long_rows,
            refuse_hidden=bool(plan.dataset.refuse_hidden),
        )
        return encoded, any(example.messages is not None for example in examples)

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
        return Dataset.from_dict(
            {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
        )

    def evaluate(self, trainer: Any, measure: Measure) -> Evaluation:
        """Loss and, where there are answers, how often the generated one is right."""
        return evaluate(
            trainer,
            measure.tokenizer,
            list(measure.rows),
            measure.plan.evaluation,
            measure.context,
        )


OBJECTIVE = Sft()

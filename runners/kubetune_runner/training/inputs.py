"""What a training reads: the model's files, the tokenizer and encoded rows."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from kubetune.api.rows import loss_rows
from kubetune.api.run.plan import ENV_DATASET_TOKEN, RunPlan
from kubetune.api.training.objectives import OBJECTIVES

from kubetune_runner import data
from kubetune_runner.data.splits import some
from kubetune_runner.errors import RunError
from kubetune_runner.model import loading, quantization, starting
from kubetune_runner.model.starting import StartingModel
from kubetune_runner.text.encoding import EncodedRows
from kubetune_runner.text.prompts import choose
from kubetune_runner.training import objectives

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Everything that training reads."""

    start: StartingModel
    """The model's files."""
    tokenizer: Any
    train: EncodedRows[Any]
    evaluation: EncodedRows[Any]
    measured: EncodedRows[Any]
    """Those of ``evaluation`` that a loss is measured on."""
    chat: bool
    context: int | None

    @property
    def splits(self) -> dict[str, EncodedRows[Any]]:
        """The rows by split."""
        return {"train": self.train, "evaluation": self.evaluation}


def prepare(plan: RunPlan) -> Inputs:
    """Read and check data and model files; no torch before all rows are read."""
    method = plan.training.method
    for name, given in (("lora", plan.training.lora), ("quantization", plan.training.quantization)):
        if given is None and (method == "qlora" or method == name):
            raise RunError("PlanInvalid", f"plan: training.{name} is missing for method {method}")
    start = starting.fetch(plan.model, plan.training)
    quantization.check(start.base, start.folder, quantize=method == "qlora")
    loading.check_length(start.base, start.folder, plan.training.hyperparameters.max_length)
    loaded = data.load(plan.dataset, os.environ.get(ENV_DATASET_TOKEN) or None)
    data.check_unchanged(plan.dataset, loaded)
    share = (plan.training.data_fraction, plan.training.data_seed)
    rows = choose(list(zip(loaded.train, loaded.train_places, strict=True)), *share)
    tokenizer = loading.load_tokenizer(plan.model, start.tokenizer, plan.training.tokenizer)
    log.info("token that pads: %s", tokenizer.pad_token)
    known = [column.name for column in loaded.columns]
    train, chat = _encode(plan, rows, tokenizer, known)
    held_out = list(zip(loaded.evaluation, loaded.evaluation_places, strict=True))
    evaluation, _ = _encode(plan, held_out, tokenizer, known)
    chosen = some(len(held_out), plan.training.evaluation.max_loss_rows, plan.dataset.splits.seed)
    measured = evaluation
    if len(chosen) < len(held_out):
        # Chosen before any of them is left out, so that they are the same for every model.
        measured, _ = _encode(plan, [held_out[at] for at in chosen], tokenizer, known)
    inputs = Inputs(
        start=start,
        tokenizer=tokenizer,
        train=train,
        evaluation=evaluation,
        measured=measured,
        chat=chat,
        context=loading.context_length(start.folder),
    )
    if not train.rows:
        limit = plan.training.hyperparameters.max_length
        raise RunError(
            "NoTrainableRows",
            f"dataset {plan.dataset.name}: of {len(rows)} training rows {train.empty} have no"
            f" answer, {train.unusable} don't fit its format, {train.cut_away} have none within"
            f" hyperparameters.maxLength {limit} and {train.dropped} are longer: add answers or"
            " raise maxLength",
        )
    log.info("rows: %s", {split: rows.counts() for split, rows in inputs.splits.items()})
    if evaluation.rows:
        log.info("%s", loss_rows(len(measured.rows), len(evaluation.rows)))
    return inputs


def _encode(
    plan: RunPlan, placed: list[tuple[data.Row, data.Place]], tokenizer: Any, known: list[str]
) -> tuple[EncodedRows[Any], bool]:
    """The rows of a split as the objective reads them, and whether they are chats."""
    dataset, formats = plan.dataset, OBJECTIVES[plan.training.objective].formats
    if plan.prompt is None and dataset.format not in formats:
        raise RunError(
            "FormatUnsupported",
            f"objective {plan.training.objective} can't learn from dataset {dataset.name}, which"
            f" has format {dataset.format}: it needs {' or '.join(formats)}",
        )
    rows, places = [row for row, _ in placed], [place for _, place in placed]
    return objectives.load(plan.training.objective).encode(rows, places, plan, tokenizer, known)

"""What a training reads: the model's files, the tokenizer and encoded rows."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

from kubetune.api.rows import loss_rows
from kubetune.api.run.plan import ENV_DATASET_TOKEN, RunPlan
from kubetune.api.training.objectives import OBJECTIVES

from kubetune_runner.errors import RunError
from kubetune_runner.model import loading, quantization, starting
from kubetune_runner.model.starting import StartingModel
from kubetune_runner.stages import UNWATCHED, Watch
from kubetune_runner.text.encoding import EncodedRows
from kubetune_runner.tokenized import tokenize

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


def prepare(plan: RunPlan, watch: Watch = UNWATCHED) -> Inputs:
    """Read and check data and model files; no torch before all rows are read.

    ``watch`` is told what begins, and how much of it is done.
    """
    method = plan.training.method
    for name, given in (("lora", plan.training.lora), ("quantization", plan.training.quantization)):
        if given is None and (method == "qlora" or method == name):
            raise RunError("PlanInvalid", f"plan: training.{name} is missing for method {method}")
    start = starting.fetch(plan.model, plan.training, watch)
    quantization.check(start.base, start.folder, quantize=method == "qlora")
    loading.check_length(start.base, start.folder, plan.training.hyperparameters.max_length)
    formats = OBJECTIVES[plan.training.objective].formats
    if plan.prompt is None and plan.dataset.format not in formats:
        raise RunError(
            "FormatUnsupported",
            f"objective {plan.training.objective} can't learn from dataset {plan.dataset.name},"
            f" which has format {plan.dataset.format}: it needs {' or '.join(formats)}",
        )

    @cache
    def tokenizer() -> Any:
        return loading.load_tokenizer(plan.model, start.tokenizer, plan.training.tokenizer)

    token = os.environ.get(ENV_DATASET_TOKEN) or None
    found = tokenize(plan, token, start.tokenizer, tokenizer, watch)
    train, evaluation, measured = found.train, found.evaluation, found.measured
    log.info("token that pads: %s", tokenizer().pad_token)
    inputs = Inputs(
        start=start,
        tokenizer=tokenizer(),
        train=train,
        evaluation=evaluation,
        measured=measured,
        chat=found.chat,
        context=loading.context_length(start.folder),
    )
    if not train.rows:
        limit = plan.training.hyperparameters.max_length
        raise RunError(
            "NoTrainableRows",
            f"dataset {plan.dataset.name}: of {found.rows} training rows {train.empty} have no"
            f" answer, {train.unusable} don't fit its format, {train.cut_away} have none within"
            f" hyperparameters.maxLength {limit} and {train.dropped} are longer: add answers or"
            " raise maxLength",
        )
    log.info("rows: %s", {split: rows.counts() for split, rows in inputs.splits.items()})
    if evaluation.rows:
        log.info("%s", loss_rows(len(measured.rows), len(evaluation.rows)))
    return inputs

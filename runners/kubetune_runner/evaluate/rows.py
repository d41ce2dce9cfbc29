"""The rows that are measured, chosen the same way for every candidate, and encoded."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.plan import ENV_DATASET_TOKEN

from kubetune_runner import data
from kubetune_runner.data import Row
from kubetune_runner.data.splits import some
from kubetune_runner.errors import RunError
from kubetune_runner.stages import UNWATCHED, Watch
from kubetune_runner.text.encoding import IGNORED, EncodedRow, encode
from kubetune_runner.text.prompts import make_examples


@dataclass(frozen=True)
class ChosenRow:
    """A row of the split."""

    number: int
    """Its place in the split, from 0."""
    columns: Row
    loss: bool = True
    """Whether it is one of those that a loss is measured on."""
    answer: bool = True
    """Whether it is one of those that are answered."""


@dataclass(frozen=True)
class Chosen:
    """Rows of the split, in their order."""

    rows: list[ChosenRow]
    of: int
    """Rows that the split has."""


@dataclass(frozen=True)
class Asked:
    """A row as the candidate reads it."""

    number: int
    columns: Row
    encoded: EncodedRow
    size: int
    """Bytes of the text that a loss is about."""
    cut: bool = False
    """Whether the model's context holds but a part of it."""
    loss: bool = True
    """Whether a loss is measured on it."""
    answer: bool = True
    """Whether what is measured of answers is measured on it."""


@dataclass
class AskedRows:
    """The rows that can be measured, and what became of the others."""

    rows: list[Asked] = field(default_factory=list[Asked])
    empty: int = 0
    """Rows without an answer or text, or that don't fit the dataset's format."""
    too_long: int = 0
    """Rows whose prompt leaves no room for an answer."""


def choose(plan: EvaluationRunPlan, *, answers: bool = True, watch: Watch = UNWATCHED) -> Chosen:
    """Rows of the plan's split: at most ``max_rows`` to answer, and ``max_loss_rows`` of which the
    loss is measured; equal for equal data. Without ``answers`` those of a loss are all.

    Raises RunError: NoRows, DatasetChanged, and those of ``data.load``.
    """
    loaded = data.load(plan.dataset, os.environ.get(ENV_DATASET_TOKEN) or None, watch)
    data.check_unchanged(plan.dataset, loaded)
    rows = loaded.train if plan.split == "train" else loaded.evaluation
    if not rows:
        way_out = (
            "add rows, or set spec.splits.evaluationFraction of the Dataset"
            if plan.split == "evaluation"
            else "add rows"
        )
        raise RunError(
            "NoRows", f"dataset {plan.dataset.name} has no rows in split {plan.split}: {way_out}"
        )
    answered = set(some(len(rows), plan.max_rows, plan.seed))
    losses = answered
    if plan.max_loss_rows is not None:
        losses = set(some(len(rows), plan.max_loss_rows, plan.dataset.splits.seed))
        if not answers:
            answered = losses
    chosen = [
        ChosenRow(number, rows[number], number in losses, number in answered)
        for number in sorted(losses | answered)
    ]
    return Chosen(chosen, len(rows))


def digest(rows: list[Asked], *, loss: bool) -> str:
    """``sha256:...`` over the rows as the dataset has them, and their places.

    With ``loss`` also over how much of a row was measured, where that isn't all of it. What is
    measured on some of the rows alone counts, too.
    """
    total = hashlib.sha256()
    for row in rows:
        measured: list[int | str] = [row.size] if loss and row.cut else []
        if row.loss != row.answer:
            measured.append("loss" if row.loss else "answer")
        text = json.dumps([row.number, row.columns, *measured], ensure_ascii=False, sort_keys=True)
        total.update(hashlib.sha256(text.encode()).digest())
    return f"sha256:{total.hexdigest()}"


def ask(
    chosen: list[ChosenRow],
    plan: EvaluationRunPlan,
    tokenizer: Any,
    context: int | None,
    *,
    answers: bool,
) -> AskedRows:
    """Encode the rows. With ``answers`` those that leave no room for one aren't answered.

    Raises RunError NoUsableRows, and those of ``make_examples`` and ``encode``.
    """
    examples = make_examples([row.columns for row in chosen], plan.dataset, plan.prompt)
    result = AskedRows()
    limit = sys.maxsize if context is None else context
    for row, example in zip(chosen, examples, strict=True):
        encoded = encode([example], tokenizer, limit)
        result.empty += encoded.empty + encoded.unusable
        result.too_long += encoded.cut_away
        for one in encoded.rows:
            answer = row.answer
            if answers and answer and one.prompt_ids is not None and not fits(one, plan, context):
                result.too_long += 1
                answer = False
            # Without a choice of its own the loss is of the rows that are answered.
            if answer or (row.loss and plan.max_loss_rows is not None):
                cut = bool(encoded.cut)
                size = _bytes_of(one, tokenizer) if cut else example.answer_bytes
                asked = Asked(row.number, row.columns, one, size, cut, row.loss, answer)
                result.rows.append(asked)
    if not any(row.answer or not answers for row in result.rows):
        raise RunError(
            "NoUsableRows",
            f"dataset {plan.dataset.name}: of {len(chosen)} rows {result.empty} have no answer and"
            f" {result.too_long} leave no room for one within the model's {context} tokens: add"
            " answers, or lower generation.maxNewTokens",
        )
    return result


def _bytes_of(row: EncodedRow, tokenizer: Any) -> int:
    """Bytes of the labelled tokens of a row that was cut."""
    labelled = [label for label in row.labels if label != IGNORED]
    return len(tokenizer.decode(labelled, skip_special_tokens=True).encode())


def fits(row: EncodedRow, plan: EvaluationRunPlan, context: int | None) -> bool:
    """Whether an answer can be generated within the model's context."""
    if row.prompt_ids is None:
        return False
    room = sys.maxsize if context is None else context - plan.generation.max_new_tokens
    return len(row.prompt_ids) <= room

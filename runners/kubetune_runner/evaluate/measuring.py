"""Runs the candidate over the rows: losses and answers, batch by batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.plan import METRIC_ETA, METRIC_STEP, METRIC_TOKENS_PER_SECOND
from transformers import set_seed

from kubetune_runner import finite
from kubetune_runner.answering.generation import generate
from kubetune_runner.answering.shape import read
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate.metrics import MeasuredRow
from kubetune_runner.evaluate.rows import Asked
from kubetune_runner.stages import Report, unseen
from kubetune_runner.text.answers import shape_of
from kubetune_runner.training import losses

log = logging.getLogger(__name__)


class Progress:
    """How many rows, and requests of tasks, are done; read by the thread that reports."""

    def __init__(self, total: int, report: Report = unseen) -> None:
        self.total = total
        self.done = 0
        self.report = report
        self.tokens = 0
        self._began = time.monotonic()

    def expect(self, more: int) -> None:
        """There will be so many more."""
        self.total += more
        self.report(self.done, self.total)

    def finish(self, more: int) -> None:
        """So many more are done."""
        self.done += more
        self.report(self.done, self.total)

    def finish_one(self) -> None:
        """A request of a task is done."""
        self.finish(1)

    def gauges(self) -> tuple[int, Mapping[str, float]]:
        """Rows done and what they tell; for ``Tracker.watch``."""
        values: dict[str, float] = {METRIC_STEP: self.done}
        seconds = time.monotonic() - self._began
        if self.done and seconds > 0:
            values[METRIC_ETA] = seconds / self.done * (self.total - self.done)
            values[METRIC_TOKENS_PER_SECOND] = self.tokens / seconds
        return self.done, values


def measure(
    model: Any,
    tokenizer: Any,
    rows: list[Asked],
    plan: EvaluationRunPlan,
    progress: Progress,
    *,
    loss: bool,
    answered: set[int],
) -> list[MeasuredRow]:
    """Losses of the rows, if asked for, and answers to those with a number in ``answered``.

    Rows come back in their order. Raises RunError OutOfMemory.
    """
    set_seed(plan.seed)
    found: dict[int, MeasuredRow] = {}
    size = plan.generation.batch_size
    # Rows of like length share a batch. The longest come first: if memory is short, it shows now.
    ordered = sorted(rows, key=lambda row: (-len(row.encoded.input_ids), row.number))
    try:
        _warm_up(model, tokenizer, [row for row in ordered if row.number in answered])
        for start in range(0, len(ordered), size):
            batch = ordered[start : start + size]
            for row in _measure_batch(model, tokenizer, batch, plan, loss, answered):
                found[row.number] = row
                progress.tokens += row.tokens
            progress.finish(len(batch))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            "OutOfMemory",
            f"the memory is too small for generation.batchSize {size} with maxNewTokens"
            f" {plan.generation.max_new_tokens}: lower batchSize first, or give the run more"
            " memory with resources",
        ) from error
    return [found[row.number] for row in rows]


def _measure_batch(
    model: Any,
    tokenizer: Any,
    batch: list[Asked],
    plan: EvaluationRunPlan,
    loss: bool,
    answered: set[int],
) -> list[MeasuredRow]:
    lost: dict[int, tuple[float, int]] = {}
    scored = [row for row in batch if row.loss] if loss else []
    if scored:
        encoded = [row.encoded for row in scored]
        inputs = losses.padded(encoded, tokenizer.pad_token_id, model.device)
        for row, found in zip(scored, losses.row_losses(model, inputs), strict=True):
            way_out = "use precision fp32 or bf16, or leave the candidate out"
            finite.check_metrics({"loss": found[0]}, f"of row {row.number}", way_out)
            lost[row.number] = found
    asked = [row for row in batch if row.number in answered]
    answers, seconds = _generate(model, tokenizer, asked, plan)
    measured: list[MeasuredRow] = []
    for row in batch:
        total, labels = lost.get(row.number, (None, 0))
        plain = row.encoded.prompt_ids is None
        text, tokens = answers.get(row.number, (None, 0))
        measured.append(
            MeasuredRow(
                number=row.number,
                columns=row.columns,
                prompt=None if plain else row.encoded.prompt,
                reference=None if plain else row.encoded.reference,
                answer=text,
                loss=total,
                labels=labels,
                size=row.size,
                tokens=tokens,
                seconds=seconds if text is not None else 0.0,
            )
        )
    return measured


def _generate(
    model: Any, tokenizer: Any, asked: list[Asked], plan: EvaluationRunPlan
) -> tuple[dict[int, tuple[str, int]], float]:
    """Text and length of each answer by the row's number, and seconds a row."""
    if not asked:
        return {}, 0.0
    shape = shape_of(tokenizer, chat=asked[0].encoded.chat)
    began = time.perf_counter()
    ids = generate(
        model,
        tokenizer,
        [row.encoded.prompt_ids or [] for row in asked],
        batch=len(asked),
        max_new_tokens=plan.generation.max_new_tokens,
        temperature=plan.generation.temperature,
        top_p=plan.generation.top_p,
        shape=shape,
    )
    seconds = (time.perf_counter() - began) / len(asked)
    texts = read(tokenizer, ids, shape)
    answers = {
        row.number: (text, len(tokens)) for row, text, tokens in zip(asked, texts, ids, strict=True)
    }
    return answers, seconds


def _warm_up(model: Any, tokenizer: Any, asked: list[Asked]) -> None:
    """A GPU's first answer takes seconds that say nothing about the candidate."""
    if asked and torch.cuda.is_available():
        prompt = asked[-1].encoded.prompt_ids or []
        generate(model, tokenizer, [prompt], batch=1, max_new_tokens=1)


def is_out_of_memory(error: BaseException) -> bool:
    """Also on a CPU, where torch raises no exception of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )

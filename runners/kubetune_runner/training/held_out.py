"""How good the model is on held-out rows: loss, perplexity and, where there are answers, how
often the generated one is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kubetune.api.run.training_plan import EvaluationPlan

from kubetune_runner.answering.generation import generate
from kubetune_runner.answering.shape import read
from kubetune_runner.scores import exact_match, perplexity, token_f1
from kubetune_runner.text.answers import shape_of
from kubetune_runner.text.encoding import EncodedRow


@dataclass(frozen=True)
class Evaluation:
    """Metrics and the answers behind them."""

    metrics: dict[str, float]
    rows: list[EncodedRow]
    answers: list[str]
    """As many as rows."""
    no_room: int = 0
    """Rows that were not asked about, since their prompts leave no room for an answer."""
    loss_rows: int = 0
    """Rows that the loss is a mean over."""

    def counts(self) -> dict[str, int]:
        """How many rows have a loss and how many an answer, for status.result.rows."""
        found = {"lossRows": self.loss_rows} if self.loss_rows else {}
        if self.answers or self.no_room:
            found |= {"answered": len(self.answers), "noRoom": self.no_room}
        return found

    def as_baseline(self) -> dict[str, float]:
        """The metrics under the names of those before training."""
        return {f"baseline_{name}": value for name, value in self.metrics.items()}


class Measured(Protocol):
    """What is measured: a model, and its loss on held-out rows as it is now."""

    @property
    def model(self) -> Any:
        """The model that answers."""

    @property
    def args(self) -> Any:
        """``per_device_eval_batch_size`` of it is used."""

    @property
    def loss_rows(self) -> int:
        """How many rows that is."""
        ...

    to_measure: int
    """How many rows will be measured, with the answers to them."""

    def measured(self, rows: int) -> None:
        """Told how many are done."""
        ...

    def held_out_loss(self) -> float:
        """Mean negative log-likelihood of the labelled tokens."""
        ...


def evaluate(
    trainer: Measured,
    tokenizer: Any,
    rows: Sequence[EncodedRow],
    plan: EvaluationPlan,
    context: int | None,
) -> Evaluation:
    """Measure the trainer's model as it is now: its answers to the first of ``rows``, and the loss
    on the rows that the trainer has for that.
    """
    room = None if context is None else context - plan.max_new_tokens
    asked: list[EncodedRow] = []
    no_room = 0
    for row in rows if plan.max_rows else ():
        if row.prompt_ids is None:
            continue
        if room is not None and len(row.prompt_ids) > room:
            # A prompt that leaves no room for the answer can't be graded.
            no_room += 1
        elif len(asked) < plan.max_rows:
            asked.append(row)
    trainer.to_measure = trainer.loss_rows + len(asked)
    metrics: dict[str, float] = {}
    if trainer.loss_rows:
        loss = trainer.held_out_loss()
        metrics = {"eval_loss": loss, "perplexity": perplexity(loss)}
    answers: list[str] = []
    if asked:
        model: Any = trainer.model
        model.eval()
        shape = shape_of(tokenizer, chat=asked[0].chat)
        ids = generate(
            model,
            tokenizer,
            [row.prompt_ids or [] for row in asked],
            batch=max(8, trainer.args.per_device_eval_batch_size),
            max_new_tokens=plan.max_new_tokens,
            shape=shape,
            told=lambda done: trainer.measured(trainer.loss_rows + done),
        )
        answers = read(tokenizer, ids, shape)
        pairs = list(zip(answers, (row.reference for row in asked), strict=True))
        metrics["exact_match"] = sum(exact_match(*pair) for pair in pairs) / len(pairs)
        metrics["token_f1"] = sum(token_f1(*pair) for pair in pairs) / len(pairs)
    return Evaluation(metrics, asked, answers, no_room, trainer.loss_rows)

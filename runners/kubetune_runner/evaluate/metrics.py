"""The table of metrics: what each needs of a row, and how values of rows make one number.

A metric describes a row by a few numbers that can be added up, and a score of such sums. So a
mean, a ratio of sums and a score of the whole corpus (BLEU, chrF) are one thing, and so are
their intervals: the score of many sums of rows that were drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kubetune.api.metrics.metric import MetricName

from kubetune_runner import scores
from kubetune_runner.evaluate.words import separated, words

Need = Literal["loss", "answer", "reference"]
"""The row's loss; a generated answer; an answer and a reference."""


class MetricError(Exception):
    """A metric can't be computed; the text says why, in a sentence that follows its name."""


@dataclass(frozen=True)
class MeasuredRow:
    """One row and what the candidate made of it."""

    number: int
    """Its place in the split, from 0."""
    columns: dict[str, Any]
    """The row as the dataset has it."""
    prompt: str | None
    """None where the row is plain text."""
    reference: str | None
    answer: str | None = None
    """None where none was generated."""
    loss: float | None = None
    """Negative log-likelihood of the labelled tokens, summed."""
    labels: int = 0
    """How many tokens are labelled."""
    size: int = 0
    """Bytes of the text that they are."""
    tokens: int = 0
    """Length of the answer."""
    seconds: float = 0.0
    """Time of its batch, divided by the rows of it."""


@dataclass(frozen=True)
class Metric:
    """How one number comes from rows."""

    need: Need
    describe: Callable[[MeasuredRow], Sequence[float]]
    """A row in numbers that can be summed over rows. Raises ValueError where that can't be."""
    score: Callable[[Sequence[float]], float]
    """The metric of the sum of such numbers."""


def metric(name: MetricName) -> Metric:
    """The metric of that name. Raises MetricError when its library is missing."""
    try:
        return _METRICS[name]()
    except ImportError as error:
        package = {"rouge_score": "rouge-score"}.get(error.name or "", error.name)
        raise MetricError(
            f"needs the package {package}, which isn't installed where the run is"
        ) from error


def _mean(need: Need, value: Callable[[MeasuredRow], float]) -> Metric:
    return Metric(need, lambda row: (value(row), 1.0), lambda sums: sums[0] / sums[1])


def _texts(value: Callable[[str, str], float]) -> Metric:
    return _mean("reference", lambda row: value(row.answer or "", row.reference or ""))


def _loss() -> Metric:
    return Metric("loss", _loss_sums, lambda sums: sums[0] / sums[1])


def _perplexity() -> Metric:
    return Metric("loss", _loss_sums, lambda sums: scores.perplexity(sums[0] / sums[1]))


def _bits_per_byte() -> Metric:
    def sums(row: MeasuredRow) -> tuple[float, float]:
        loss, _ = _loss_sums(row)
        return loss / math.log(2), float(max(row.size, 1))

    return Metric("loss", sums, lambda sums: sums[0] / sums[1])


def _loss_sums(row: MeasuredRow) -> tuple[float, float]:
    return math.nan if row.loss is None else row.loss, float(row.labels)


def _rouge(kind: str) -> Metric:
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer([kind], tokenizer=_Words())
    return _texts(lambda answer, reference: scorer.score(reference, answer)[kind].fmeasure)


class _Words:
    """Words for ROUGE. The library's own tokenizer drops every letter outside of a to z."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _bleu() -> Metric:
    from sacrebleu.metrics.bleu import BLEU

    # By default texts of less than four words score 0, however equal they are.
    return _of_corpus(BLEU(effective_order=True), separated)


def _chrf() -> Metric:
    from sacrebleu.metrics.chrf import CHRF

    return _of_corpus(CHRF(), scores.composed)


def _of_corpus(library: Any, prepared: Callable[[str], str]) -> Metric:
    """sacrebleu scores a corpus by sums of counts of its segments."""

    def describe(row: MeasuredRow) -> Sequence[float]:
        answer, reference = prepared(row.answer or ""), prepared(row.reference or "")
        return library._extract_corpus_statistics([answer], [[reference]])[0]

    def score(sums: Sequence[float]) -> float:
        return library._compute_score_from_stats([int(value) for value in sums]).score

    return Metric("reference", describe, score)


_METRICS: dict[MetricName, Callable[[], Metric]] = {
    "loss": _loss,
    "perplexity": _perplexity,
    "bitsPerByte": _bits_per_byte,
    "exactMatch": lambda: _texts(lambda *texts: float(scores.exact_match(*texts))),
    "tokenF1": lambda: _texts(scores.token_f1),
    "rouge1": lambda: _rouge("rouge1"),
    "rougeL": lambda: _rouge("rougeL"),
    "bleu": _bleu,
    "chrf": _chrf,
    "jsonFields": lambda: _texts(scores.json_fields),
    "length": lambda: _mean("answer", lambda row: float(row.tokens)),
    "latency": lambda: _mean("answer", lambda row: row.seconds),
}

"""The table of results: each metric as a number with an interval, or as an error; never missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from kubetune.api.metrics.metric import MetricName
from kubetune.api.run.evaluation_plan import MeasuredValue

from kubetune_runner.evaluate.metrics import MeasuredRow, Metric, MetricError, Need, metric

RESAMPLES = 1000
CONFIDENCE = 0.95
DIGITS = 6
"""Significant digits of a number in the table."""
MAX_ERROR = 200

_MISSING: dict[Need, tuple[Callable[[MeasuredRow], bool], str]] = {
    "loss": (lambda row: row.loss is None, "the row's loss, which wasn't computed"),
    "answer": (lambda row: row.answer is None, "a generated answer, and the row has no prompt"),
    "reference": (
        lambda row: row.answer is None or row.reference is None,
        "a prompt and a reference, and the row is plain text",
    ),
}


@dataclass(frozen=True)
class Column:
    """A metric over all rows, and its value for each."""

    measured: MeasuredValue
    values: list[float] = field(default_factory=list[float])
    """One a row; none where the metric can't be computed."""
    numbers: list[int] = field(default_factory=list[int])
    """Whose values they are: the rows' places in the split."""


def measure(name: MetricName, rows: Sequence[MeasuredRow], seed: int) -> Column:
    """The metric over all rows with its interval, or what keeps it from being computed."""
    try:
        return _column(metric(name), rows, seed)
    except MetricError as error:
        return failed(name, str(error))


def failed(name: str, problem: str) -> Column:
    """A metric that can't be computed."""
    return Column(MeasuredValue(error=shortened(f"{name}: {problem}", MAX_ERROR)))


def shortened(text: str, limit: int) -> str:
    """At most ``limit`` characters of a text."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def of_values(rows: Sequence[MeasuredRow], values: Sequence[float], seed: int) -> Column:
    """The mean of values that were computed elsewhere, one a row."""
    known = {row.number: value for row, value in zip(rows, values, strict=True)}
    mean = Metric("answer", lambda row: (known[row.number], 1.0), lambda sums: sums[0] / sums[1])
    return _column(mean, rows, seed)


def _column(of: Metric, rows: Sequence[MeasuredRow], seed: int) -> Column:
    if not rows:
        raise MetricError("no row is left to measure")
    described: list[list[float]] = []
    values: list[float] = []
    is_missing, what = _MISSING[of.need]
    for row in rows:
        if is_missing(row):
            raise MetricError(f"row {row.number} lacks {what}")
        try:
            numbers = [float(number) for number in of.describe(row)]
            value = of.score(numbers)
        except ValueError as error:
            raise MetricError(f"row {row.number}: {error}") from error
        if not math.isfinite(value):
            raise MetricError(f"row {row.number}: its value is {value}, not a finite number")
        described.append(numbers)
        values.append(value)
    table = np.array(described)
    value = of.score(table.sum(axis=0).tolist())
    low, high = _interval(table, of.score, seed)
    # The quantiles of a skewed score may lie on one side of it.
    low, high = min(low, value), max(high, value)
    if not all(math.isfinite(number) for number in (value, low, high)):
        raise MetricError(f"its value over all rows is {value}, not a finite number")
    measured = MeasuredValue(value=rounded(value), low=rounded(low), high=rounded(high))
    return Column(measured, values, [row.number for row in rows])


def _interval(
    table: np.ndarray, score: Callable[[Sequence[float]], float], seed: int
) -> tuple[float, float]:
    """Percentile bootstrap: the score over rows drawn again and again, with replacement.

    Equal seeds draw the same rows, whatever the metric and the candidate are.
    """
    random = np.random.default_rng(seed)
    count = len(table)
    drawn: list[float] = []
    for _ in range(RESAMPLES):
        times = np.bincount(random.integers(0, count, count), minlength=count)
        drawn.append(score((times @ table).tolist()))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def rounded(value: float) -> float:
    """The number as the table has it."""
    return float(f"{value:.{DIGITS}g}")

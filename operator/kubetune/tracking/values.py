"""Values that trackers read alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kubetune.api.run.evaluation_plan import TAG_EVALUATION_SUMMARY, EvaluationSummary
from kubetune.tracking.base import RunTest, TrackedRun


def metric_value(value: Any) -> float:
    """A metric's value: zero may be left out, and NaN and infinity come as text."""
    number = float(value or 0)
    # One object for all NaNs, so that a run with one equals itself at the next poll.
    return math.nan if math.isnan(number) else number


def best_evaluation(runs: Sequence[TrackedRun], believed: RunTest) -> TrackedRun | None:
    """Of runs that have measured the same, newest first, and are believed, one that has all, else
    one that has left a summary."""
    ended = [run for run in runs if TAG_EVALUATION_SUMMARY in run.tags and believed(run)]
    for run in ended:
        summary = EvaluationSummary.of_tag(run.tags[TAG_EVALUATION_SUMMARY])
        if summary and summary.complete:
            return run
    return next(iter(ended), None)

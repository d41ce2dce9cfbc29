"""The gate: which demands on metrics are met, for Evaluations and FineTuneJobs alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rival:
    """What must be beaten."""

    name: str
    """For the sentence, such as ``candidate base``."""
    value: float | None
    """None: it has no value of the metric."""


@dataclass(frozen=True)
class Demand:
    """One threshold on a metric; exactly one of min, max, rival and impossible."""

    metric: str
    min: float | None = None
    max: float | None = None
    rival: Rival | None = None
    lower_is_better: bool = False
    impossible: str = ""
    """A sentence when nothing can meet it as things stand."""


def misses(demands: Sequence[Demand], values: Mapping[str, float]) -> list[str]:
    """A sentence for each demand that the values don't meet."""
    sentences = (_miss(demand, values.get(demand.metric)) for demand in demands)
    return [sentence for sentence in sentences if sentence]


def better(one: float, other: float, *, lower_is_better: bool) -> bool:
    """Whether a value beats another; equal ones don't."""
    return one < other if lower_is_better else one > other


def _miss(demand: Demand, value: float | None) -> str:
    if demand.impossible:
        return demand.impossible
    if value is None or math.isnan(value):
        return f"{demand.metric} has no value"
    if demand.min is not None and value < demand.min:
        return f"{demand.metric} {value:.6g} is below {demand.min:g}"
    if demand.max is not None and value > demand.max:
        return f"{demand.metric} {value:.6g} is above {demand.max:g}"
    rival = demand.rival
    if rival is None:
        return ""
    if rival.value is None:
        return f"{rival.name} has no {demand.metric} to compare with"
    if not better(value, rival.value, lower_is_better=demand.lower_is_better):
        return f"{demand.metric} {value:.6g} is not better than {rival.value:.6g} of {rival.name}"
    return ""

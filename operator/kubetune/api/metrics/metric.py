"""What an Evaluation can measure: the metrics that there are, and functions of the user's."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from kubetune.api.schema.base import Value
from kubetune.api.schema.kubernetes_values import ConfigMapKeyRef
from kubetune.api.schema.rules import Rule

MetricName = Literal[
    "loss",
    "perplexity",
    "bitsPerByte",
    "exactMatch",
    "tokenF1",
    "rouge1",
    "rougeL",
    "bleu",
    "chrf",
    "jsonFields",
    "length",
    "latency",
]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)
PER_TOKEN: frozenset[str] = frozenset({"loss", "perplexity"})
"""Means over tokens: of two models comparable only where both make the same text as many tokens."""
BITS_PER_BYTE = "bitsPerByte"
"""The same likelihood as a mean over bytes of text, whatever the tokens are."""
LOWER_IS_BETTER: frozenset[str] = frozenset({*PER_TOKEN, BITS_PER_BYTE, "latency"})
NEITHER_IS_BETTER: frozenset[str] = frozenset({"length"})
WITHOUT_REFERENCE: frozenset[str] = frozenset({*PER_TOKEN, BITS_PER_BYTE})
"""Metrics of rows that are plain text; all others need a prompt and an answer to compare with."""
MAX_FUNCTION_CHARACTERS = 32768
MAX_METRICS = 16
"""Metrics of one Evaluation."""
KNOWN = f"[{', '.join(repr(name) for name in METRIC_NAMES)}]"
AnyMetric = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z][A-Za-z0-9]*$")]
"""One of METRIC_NAMES, or the name of a function."""


def new_name(what: str) -> Rule:
    """The name of a metric of the user's own is none of METRIC_NAMES; ``what`` it is."""
    return Rule(
        cel=f"!(self.name in {KNOWN})",
        message=f"a metric of this name exists; give the {what} another one",
        check=lambda own: own.name not in METRIC_NAMES,
        field="name",
    )


class MetricFunction(Value):
    """A metric of your own."""

    rules: ClassVar[tuple[Rule, ...]] = (new_name("function"),)

    name: AnyMetric = Field(description="Name of the metric, to be listed in spec.metrics.")
    config_map_ref: ConfigMapKeyRef = Field(
        description="Python code, at most 32,768 characters, that defines"
        " `metric(prediction, reference, row)` and returns a number for a row. It runs in the"
        " run's container, in a process of its own."
    )
    timeout_seconds: int = Field(
        default=10, ge=1, le=3600, description="Most seconds for one row. Default 10."
    )
    lower_is_better: bool = Field(
        default=False, description="Whether lower values are better. Default false."
    )

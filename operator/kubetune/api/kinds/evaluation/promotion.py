"""What a candidate must reach, and the alias that it gets."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubetune.api.metrics.metric import (
    AnyMetric,
)
from kubetune.api.schema.base import DNS_LABEL, Value
from kubetune.api.schema.registry_names import (
    RegistryAlias,
    RegistryName,
    not_reserved,
    registrable,
)
from kubetune.api.schema.rules import Rule, exactly_one

CandidateName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]


class BetterThan(Value):
    """What a candidate must beat; exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("candidate", "alias"),)

    candidate: CandidateName | None = Field(
        default=None, description="Another candidate, such as the base model."
    )
    alias: RegistryAlias | None = Field(
        default=None,
        description="The version of promote.name that has this alias, which must be promote.alias."
        " It must be a candidate too; while no version has the alias, there is nothing to beat.",
    )


class Threshold(Value):
    """A demand on a metric: min, max or betterThan."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("min", "max", "better_than"),)

    candidate: CandidateName | None = Field(
        default=None,
        description="Candidate that must meet it, else the evaluation does not pass. Default:"
        " whichever wins must meet it.",
    )
    metric: AnyMetric = Field(description="One of spec.metrics.")
    min: float | None = Field(default=None, description="Lowest value that passes.")
    max: float | None = Field(default=None, description="Highest value that passes.")
    better_than: BetterThan | None = Field(
        default=None, description="What the candidate must be better than, by this metric."
    )


class Promotion(Value):
    """The alias that moves when the evaluation passes."""

    rules: ClassVar[tuple[Rule, ...]] = (registrable(), not_reserved())

    name: RegistryName = Field(description="Registered model whose version gets the alias.")
    alias: RegistryAlias = Field(description="Alias that moves, such as champion.")
    candidate: CandidateName | None = Field(
        default=None, description="Candidate whose version gets it. Default: the winner."
    )

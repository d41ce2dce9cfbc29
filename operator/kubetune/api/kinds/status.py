"""Status of every kind: what the operator proves. Bounded, and free of row text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kubetune.api.conditions import InspectionResult
from kubetune.api.kinds.compute_target.recorded import RecordedTarget
from kubetune.api.schema.base import Value, keyed_by

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC, whole seconds."""

MAX_LOG_BYTES = 2048


class Condition(Value):
    """One condition, as in Kubernetes' own kinds."""

    type: str = Field(max_length=316, description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="CamelCase reason.")
    message: str = Field(max_length=32768, description="A sentence for the user.")
    last_transition_time: Timestamp = Field(description="When status last changed.")
    observed_generation: int | None = Field(
        default=None, description="metadata.generation that the condition was made for."
    )


class ObjectStatus(Value):
    """Common to all kinds."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this status was made for."
    )
    conditions: Annotated[list[Condition], *keyed_by("type")] | None = Field(
        default=None,
        max_length=16,
        description="Conditions; Ready says whether the object can be used.",
    )


class InspectionState(Value):
    """Which inspection the status is from."""

    key: str | None = Field(default=None, description="Digest of what was inspected and how.")
    attempts: int | None = Field(default=None, description="Failed tries since the spec changed.")
    external: RecordedTarget | None = Field(
        default=None, description="Where it reads, while it is under way."
    )
    time: Timestamp | None = Field(default=None, description="When the last try ended.")
    result: InspectionResult | None = Field(
        default=None, description="found or refused once it ended; absent while it is under way."
    )
    reason: str | None = Field(default=None, description="Why the source was refused.")
    message: str | None = Field(
        default=None, max_length=1024, description="Why the last try failed."
    )
    log: str | None = Field(
        default=None,
        max_length=MAX_LOG_BYTES,
        description="Last lines that a failed try has printed.",
    )

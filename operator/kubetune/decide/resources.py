"""Objects as decide sees them: parsed, with what stands in the way of parsing as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.schema.base import Value
from kubetune.decide.decision import (
    condition_in,
    condition_is,
    condition_text,
    parse_time,
)
from kubetune.targets.values import Owner

Spec = TypeVar("Spec", bound=Value)


@dataclass(frozen=True)
class Resource(Generic[Spec]):
    """An object of one of our kinds."""

    owner: Owner
    generation: int
    created: datetime
    deleting: bool
    annotations: dict[str, str]
    finalizers: tuple[str, ...]
    labels: dict[str, str]
    spec: Spec | None
    """None when the spec can't be read; then ``problem`` says why."""
    problem: str
    status: JsonObject = field(default_factory=dict[str, Any])
    deleted: datetime | None = None
    """When somebody deleted it."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.owner.name

    @property
    def is_ready(self) -> bool:
        """Ready, for the spec that it has now."""
        return self.status.get("observedGeneration") == self.generation and condition_is(
            self.status, ConditionType.READY
        )

    @property
    def is_stalled(self) -> bool:
        """Only a change by the user helps."""
        return condition_is(self.status, ConditionType.STALLED)

    @property
    def why_not_ready(self) -> str:
        """Reason and message of its Ready condition."""
        return condition_text(self.status, ConditionType.READY)

    @property
    def waiting_since(self) -> datetime | None:
        """When Ready last changed."""
        return parse_time(condition_in(self.status, ConditionType.READY).get("lastTransitionTime"))


@dataclass(frozen=True)
class TargetProblem:
    """Why a target could not be asked about runs."""

    reason: str
    message: str


@dataclass(frozen=True)
class Target:
    """The compute target that a reference, or the lack of one, leads to."""

    kind: str
    name: str
    spec: ComputeTargetSpec | None
    ready: bool
    why_not: str
    """A sentence when it is missing or not ready."""

    @property
    def label(self) -> str:
        """Kind and name."""
        return f"{self.kind}/{self.name}"

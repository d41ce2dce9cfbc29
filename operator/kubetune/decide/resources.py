"""Objects as decide sees them: parsed, with what stands in the way of parsing as text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from kubetune.api.conditions import ConditionType
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.api.kinds.evaluation.spec import EvaluationSpec
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.kinds.model.spec import ModelSpec
from kubetune.api.kinds.prompt_template.spec import PromptTemplateSpec
from kubetune.api.kinds.status_types import (
    ComputeTargetStatusDict,
    DatasetStatusDict,
    EvaluationStatusDict,
    FineTuneJobStatusDict,
    ModelStatusDict,
    ObjectStatusDict,
    PromptTemplateStatusDict,
)
from kubetune.api.kinds.tuning_profile.spec import TuningProfileSpec
from kubetune.api.schema.base import Value
from kubetune.decide.decision import (
    condition_in,
    condition_is,
    condition_text,
    parse_time,
)
from kubetune.targets.values import Owner

Spec = TypeVar("Spec", bound=Value, covariant=True)
Status = TypeVar("Status", bound=ObjectStatusDict, covariant=True)


@dataclass(frozen=True)
class Resource(Generic[Spec, Status]):
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
    status: Status
    """Empty before the first one is written. Not to be changed: the write is a difference to it."""
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
        ready = condition_in(self.status, ConditionType.READY)
        return parse_time(ready["lastTransitionTime"]) if ready else None


AnyResource = Resource[Value, ObjectStatusDict]
DatasetResource = Resource[DatasetSpec, DatasetStatusDict]
EvaluationResource = Resource[EvaluationSpec, EvaluationStatusDict]
FineTuneJobResource = Resource[FineTuneJobSpec, FineTuneJobStatusDict]
ModelResource = Resource[ModelSpec, ModelStatusDict]
ProfileResource = Resource[TuningProfileSpec, ObjectStatusDict]
PromptTemplateResource = Resource[PromptTemplateSpec, PromptTemplateStatusDict]
TargetResource = Resource[ComputeTargetSpec, ComputeTargetStatusDict]


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

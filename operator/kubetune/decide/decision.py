"""The language of decisions: actions, conditions and when to look again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic_core import from_json, to_json

from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType, Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import (
    ComputeTargetStatusDict,
    ConditionDict,
    DatasetStatusDict,
    EvaluationStatusDict,
    FineTuneJobStatusDict,
    ModelStatusDict,
    ObjectStatusDict,
    PromptTemplateStatusDict,
)
from kubetune.api.run.evaluation_plan import EvaluationSummary
from kubetune.targets.values import RunRequest
from kubetune.tracking.base import AliasMove, Registration

MAX_MESSAGE = 1024
Status = TypeVar("Status", bound=ObjectStatusDict)
Running = TypeVar("Running", FineTuneJobStatusDict, EvaluationStatusDict)
"""Status of a kind with a phase, whose runs take as long as they need."""
Inspected = TypeVar("Inspected", DatasetStatusDict, ModelStatusDict, PromptTemplateStatusDict)
"""Status of a kind that is looked into by a run."""
Decided = TypeVar("Decided", bound=ObjectStatusDict, covariant=True)


@dataclass(frozen=True)
class Stamp:
    """Add the finalizer and, when given, the run key to the object; before any other effect.

    The run key goes into status first, where no PUT of the object reaches it.
    """

    finalizer: bool = False
    run_key: str | None = None
    fresh: bool = False
    """The run key was made just now."""


@dataclass(frozen=True)
class TieToJob:
    """Say again on a Model which FineTuneJob has made it."""

    job: str


@dataclass(frozen=True)
class Record:
    """Write into the status where a run will be and how it is found, before it is started."""

    field: str
    """A field of the status, whose whole value follows."""
    value: Any
    known_by: tuple[str, ...] = ()
    """Of a list: nothing is new while its items have the same of these fields."""


@dataclass(frozen=True)
class StartRun:
    """Ensure the run of an attempt."""

    request: RunRequest


@dataclass(frozen=True)
class StopRuns:
    """Stop live runs of a run key, with grace."""

    run_key: str
    unbegun: bool = False
    """Only those that still wait to begin: one that has begun meanwhile goes on."""


@dataclass(frozen=True)
class LimitRuns:
    """Have the target itself end live runs when their time is over."""

    run_key: str
    seconds: float | None
    """How long they may still run, waiting aside; None: no limit any more."""
    now: datetime
    """When this was so."""


@dataclass(frozen=True)
class StopStrays:
    """Stop pods of a run key that have lost their Job, with grace."""

    run_key: str


@dataclass(frozen=True)
class DeleteRuns:
    """Delete all runs of a run key and what was made for them."""

    run_key: str
    settled: bool = False
    """The runs were seen to end, so none can be on its way."""
    elsewhere: ComputeTargetSpec | None = None
    """Where they are, when that isn't where the object's runs are now."""
    needed: bool = True
    """Whether what follows has to wait until it is done."""


@dataclass(frozen=True)
class AbandonRuns:
    """Leave the runs of a run key where nobody can reach them, and say so in the log."""

    run_key: str
    why: str


@dataclass(frozen=True)
class OrphanRuns:
    """Cut the runs loose, so that they outlive the object."""

    run_key: str


@dataclass(frozen=True)
class FindIdentical:
    """Look for a registered version with the same lineage; known to the next observation."""

    name: str
    lineage_digest: str
    alias: str | None = None
    """Moved to the version that is found."""
    merged: bool = False
    """It is the merged model that is sought."""


@dataclass(frozen=True)
class FindRun:
    """Look a finished run up in the tracker; known to the next observation."""

    run_key: str


@dataclass(frozen=True)
class Register:
    """Register the result; the version becomes known to the next observation."""

    registration: Registration
    merged: bool = False
    """It is the merged model's."""


@dataclass(frozen=True)
class FindEvaluation:
    """Look for a complete run with an evaluation digest; known to the next observation."""

    digest: str
    asked: str
    """What it is remembered by: the same digest may be sought before and after a run."""
    run_key: str = ""
    """Of the one run whose own word counts; empty: what the operator has signed counts."""


@dataclass(frozen=True)
class SignMeasurement:
    """Sign what a run has measured, so that others may reuse it; left where it can't be."""

    run_key: str
    digest: str
    summary: EvaluationSummary


@dataclass(frozen=True)
class FindAlias:
    """Look up which version has an alias; known to the next observation."""

    name: str
    alias: str


@dataclass(frozen=True)
class MoveAlias:
    """Move an alias; known to the next observation."""

    move: AliasMove


@dataclass(frozen=True)
class CreateModel:
    """Make the output Model object, or leave the one that is there."""

    manifest: JsonObject


@dataclass(frozen=True)
class DeleteSelf:
    """Delete the object: its time to live is over."""


@dataclass(frozen=True)
class ReleaseTarget:
    """Hold a compute target, and what it names, no longer."""

    forced: bool = False
    """Also what others need."""


@dataclass(frozen=True)
class ReleaseFinalizer:
    """Let a deleted object go."""


Effect = (
    Stamp
    | TieToJob
    | Record
    | StartRun
    | StopRuns
    | StopStrays
    | LimitRuns
    | DeleteRuns
    | AbandonRuns
    | OrphanRuns
    | CreateModel
    | DeleteSelf
    | ReleaseTarget
    | ReleaseFinalizer
)
"""What changes the cluster or the target."""

Question = (
    FindIdentical | FindRun | Register | FindEvaluation | SignMeasurement | FindAlias | MoveAlias
)
"""What the tracker is asked to find or to do: the next observation has its answer."""

Action = Effect | Question


@dataclass(frozen=True)
class Decision(Generic[Decided]):
    """Actions in order, then the status; ``status`` None leaves it as it is."""

    actions: tuple[Action, ...] = ()
    status: Decided | None = None
    requeue_after: float | None = None
    """Seconds until the object must be looked at again without an event."""

    @property
    def effects(self) -> list[Effect]:
        """The actions that change something here, in order; they come before the questions."""
        return [action for action in self.actions if not isinstance(action, Question)]

    @property
    def questions(self) -> list[Question]:
        """The actions that the tracker answers, in order."""
        return [action for action in self.actions if isinstance(action, Question)]


AnyDecision = Decision[ObjectStatusDict]
DatasetDecision = Decision[DatasetStatusDict]
EvaluationDecision = Decision[EvaluationStatusDict]
FineTuneJobDecision = Decision[FineTuneJobStatusDict]
ModelDecision = Decision[ModelStatusDict]
PromptTemplateDecision = Decision[PromptTemplateStatusDict]
TargetDecision = Decision[ComputeTargetStatusDict]


@dataclass
class Conditions:
    """The conditions of an object, updated without touching what stays the same."""

    generation: int
    now: datetime
    current: list[ConditionDict] = field(default_factory=list[ConditionDict])

    def set(
        self, kind: ConditionType, status: bool | None, reason: Reason | str, message: str
    ) -> None:
        """Set one condition; its transition time changes only when its status does."""
        text = "Unknown" if status is None else "True" if status else "False"
        # Plain texts: to write an enum's value takes ten times as long as all the rest of it.
        new: ConditionDict = {
            "type": str(kind),
            "status": text,
            "reason": str(reason),
            "message": shorten(message),
            "observedGeneration": self.generation,
            "lastTransitionTime": rfc3339(self.now),
        }
        for index, old in enumerate(self.current):
            if old["type"] == new["type"]:
                if old["status"] == text:
                    new["lastTransitionTime"] = old["lastTransitionTime"]
                self.current[index] = new
                return
        self.current.append(new)

    def remove(self, kind: ConditionType) -> None:
        """Drop a condition that no longer says anything."""
        self.current[:] = [old for old in self.current if old["type"] != kind]

    def ready(self, reason: Reason | str, message: str) -> None:
        """The object can be used: kstatus Current."""
        self.set(ConditionType.READY, True, reason, message)
        self.remove(ConditionType.RECONCILING)
        self.remove(ConditionType.STALLED)

    def waiting(self, reason: Reason | str, message: str) -> None:
        """The operator or a dependency will move it on: kstatus InProgress."""
        self.set(ConditionType.READY, False, reason, message)
        self.set(ConditionType.RECONCILING, True, reason, message)
        self.remove(ConditionType.STALLED)

    def stalled(self, reason: Reason | str, message: str) -> None:
        """Only a change by the user helps: kstatus Failed."""
        self.set(ConditionType.READY, False, reason, message)
        self.set(ConditionType.STALLED, True, reason, message)
        self.remove(ConditionType.RECONCILING)


def copy_of(status: Status) -> Status:
    """A status that may be changed: what was observed stays, for the difference to it is written.

    Through text, which takes a tenth of deepcopy's time.
    """
    return from_json(to_json(status))


def conditions_of(status: ObjectStatusDict, generation: int, now: datetime) -> Conditions:
    """The object's conditions, ready to be changed."""
    return Conditions(generation, now, [old.copy() for old in status.get("conditions") or ()])


def with_conditions(status: Status, conditions: Conditions) -> Status:
    """The status with these conditions, made for the generation that they are of."""
    new = status.copy()
    new["observedGeneration"] = conditions.generation
    new["conditions"] = conditions.current
    return new


def condition_in(status: ObjectStatusDict, kind: ConditionType) -> ConditionDict | None:
    """The condition of a kind; None where there is none."""
    return next((old for old in status.get("conditions") or () if old["type"] == kind), None)


def condition_is(
    status: ObjectStatusDict, kind: ConditionType, wanted: Literal["True", "False"] = "True"
) -> bool:
    """Whether a condition has a status, for the object's present generation or an older one."""
    found = condition_in(status, kind)
    return found is not None and found["status"] == wanted


def condition_text(status: ObjectStatusDict, kind: ConditionType) -> str:
    """Reason and message of a condition, for a sentence about another object."""
    found = condition_in(status, kind)
    return f"{found['reason']}: {found['message']}" if found else "it has not been looked at yet"


def shorten(text: str, limit: int = MAX_MESSAGE) -> str:
    """The text, cut at the limit with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def rfc3339(moment: datetime) -> str:
    """A moment as Kubernetes writes it: UTC, whole seconds."""
    # Several in each decision: strftime takes twice as long.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def parse_time(text: str | None) -> datetime | None:
    """Read a Kubernetes timestamp."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None

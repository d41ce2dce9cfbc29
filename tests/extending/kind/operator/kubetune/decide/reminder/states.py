"""Reminder: Ready once its Dataset has enough rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kubetune.api.conditions import Reason
from kubetune.api.kinds.reminder.spec import ReminderSpec
from kubetune.api.kinds.status_types import ReminderStatusDict
from kubetune.decide.decision import Decision, conditions_of
from kubetune.decide.resources import DatasetResource, Resource

ReminderResource = Resource[ReminderSpec, ReminderStatusDict]


@dataclass(frozen=True)
class ObservedReminder:
    """A Reminder and the Dataset that it names."""

    reminder: ReminderResource
    dataset: DatasetResource | None


def decide(observed: ObservedReminder, now: datetime) -> Decision[ReminderStatusDict]:
    """What to do for a Reminder."""
    reminder, dataset = observed.reminder, observed.dataset
    conditions = conditions_of(reminder.status, reminder.generation, now)
    status: ReminderStatusDict = {
        "observedGeneration": reminder.generation,
        "conditions": conditions.current,
    }

    # 1. The spec can't be read.
    spec = reminder.spec
    if spec is None:
        conditions.stalled(Reason.INVALID_SPEC, reminder.problem)
        return Decision(status=status)

    # 2. The Dataset is not there yet.
    name = spec.dataset_ref.name
    if dataset is None or not dataset.is_ready:
        reason = Reason.DATASET_MISSING if dataset is None else Reason.DATASET_NOT_READY
        conditions.waiting(reason, f"waiting for Dataset {name}, named by spec.datasetRef.name")
        return Decision(status=status)

    # 3. It has enough rows, or not.
    rows = dataset.status.get("rows")
    status["found"] = found = rows["train"] if rows else 0
    if found < spec.rows:
        message = f"Dataset {name} has {found} of {spec.rows} rows"
        conditions.waiting(Reason.DATASET_NOT_READY, message)
    else:
        conditions.ready(Reason.READY, f"Dataset {name} has {found} rows")
    return Decision(status=status)

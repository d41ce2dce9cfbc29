"""Reminder: its Dataset's rows are counted."""

from __future__ import annotations

from datetime import datetime

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import ReminderStatusDict
from kubetune.controllers.base import Forgetful
from kubetune.decide.decision import Decision
from kubetune.decide.reminder import states
from kubetune.decide.reminder.states import ObservedReminder, ReminderResource
from kubetune.observe.cache import ObjectCache
from kubetune.observe.objects import find


class ReminderController(Forgetful[ObservedReminder]):
    """A Reminder has no runs and remembers nothing."""

    kinds = frozenset({"Reminder"})

    def __init__(self, cache: ObjectCache) -> None:
        self._cache = cache

    async def observe(self, resource: ReminderResource, kept: None) -> ObservedReminder:
        """A Reminder and its Dataset."""
        name = resource.spec.dataset_ref.name if resource.spec else None
        dataset = find(self._cache, "Dataset", resource.owner.namespace, name)
        return ObservedReminder(resource, dataset)

    def decide(self, observed: ObservedReminder, now: datetime) -> Decision[ReminderStatusDict]:
        """See kubetune.decide.reminder.states."""
        return states.decide(observed, now)

    def place(self, observed: ObservedReminder) -> ComputeTargetSpec | None:
        """Nothing runs for it."""
        return None

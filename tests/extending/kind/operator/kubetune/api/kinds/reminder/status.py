"""Status of a Reminder: how many rows there are."""

from __future__ import annotations

from kubetune.api.kinds.status import ObjectStatus
from pydantic import Field


class ReminderStatus(ObjectStatus):
    """Status of a Reminder."""

    found: int | None = Field(default=None, description="Training rows that the Dataset has.")

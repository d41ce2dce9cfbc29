"""Kind Reminder: what the user declares."""

from __future__ import annotations

from typing import ClassVar

from kubetune.api.schema.base import LocalRef, Value
from kubetune.api.schema.referenced import Reference
from pydantic import Field


class ReminderSpec(Value):
    """A Dataset, and how many rows it should have."""

    references: ClassVar[tuple[Reference, ...]] = (Reference("datasetRef", "Dataset"),)

    dataset_ref: LocalRef = Field(description="Dataset whose rows are counted.")
    rows: int = Field(ge=1, le=1_000_000_000, description="How many training rows to wait for.")

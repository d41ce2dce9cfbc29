"""Status of a PromptTemplate: its columns, and a suggestion where it has none."""

from __future__ import annotations

from pydantic import Field

from kubetune.api.kinds.inspection import (
    PromptSample,
)
from kubetune.api.kinds.status import InspectionState, ObjectStatus
from kubetune.api.schema.base import Value


class PromptSuggestion(Value):
    """What to write, guessed from column names: templates, or what to set in the Dataset."""

    prompt: str | None = Field(default=None, description="For spec.prompt.")
    completion: str | None = Field(default=None, description="For spec.completion.")
    format: str | None = Field(
        default=None, description="For spec.format of the Dataset, which needs no PromptTemplate."
    )
    columns: dict[str, str] | None = Field(
        default=None, max_length=8, description="For spec.columns of the Dataset."
    )
    left_out: list[str] | None = Field(
        default=None, max_length=16, description="Columns that the guess has no use for."
    )


class PromptTemplateStatus(ObjectStatus):
    """Status of a PromptTemplate."""

    inspection: InspectionState | None = None
    slots: list[str] | None = Field(default=None, max_length=200, description="Slots in order.")
    suggestion: PromptSuggestion | None = Field(
        default=None, description="A guess from the Dataset's columns; only without templates."
    )
    sample: PromptSample | None = Field(
        default=None, description="One rendered row; only with spec.sample."
    )

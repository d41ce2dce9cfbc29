"""Status of a Dataset: what its inspection found, without text of rows."""

from __future__ import annotations

from pydantic import Field

from kubetune.api.kinds.inspection import (
    Column,
    LengthHistogram,
    Problem,
    RowChecks,
    SplitRows,
)
from kubetune.api.kinds.status import InspectionState, ObjectStatus


class DatasetStatus(ObjectStatus):
    """Status of a Dataset."""

    inspection: InspectionState | None = None
    source: str | None = Field(default=None, description="The source in one line.")
    revision: str | None = Field(default=None, description="Resolved commit of a hub source.")
    digest: str | None = Field(default=None, description="sha256 of the content.")
    split_digest: str | None = Field(default=None, description="sha256 over the split rows.")
    rows: SplitRows | None = Field(default=None, description="Rows per split.")
    columns: list[Column] | None = Field(default=None, max_length=200, description="Columns.")
    columns_truncated: bool | None = Field(default=None, description="There are more columns.")
    lengths: LengthHistogram | None = Field(
        default=None, description="Lengths of rows, in tokens when a tokenizer is known."
    )
    checks: RowChecks | None = Field(
        default=None, description="Duplicate, leaked, empty and very long rows."
    )
    problems: list[Problem] | None = Field(
        default=None, max_length=20, description="The first problems by row."
    )
    problem_count: int | None = Field(default=None, description="All problems.")
    report_uri: str | None = Field(default=None, description="Artifact with all problems.")

"""What readers take and give: files, rows with their places, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.kinds.inspection import Problem
from kubetune.api.rows import FileFormat

Row = dict[str, Any]


@dataclass(frozen=True)
class SourceFile:
    """A file that holds rows; ``name`` is what the user calls it."""

    name: str
    path: Path
    format: FileFormat
    delimiter: str | None = None
    """Of csv, where the user says it."""


@dataclass(frozen=True)
class Source:
    """Files by split, sorted by name, so that equal sources read in equal order."""

    splits: dict[str, list[SourceFile]]
    revision: str | None = None
    """Commit of a hub source."""


@dataclass(frozen=True)
class Note:
    """A problem that leaves the rows usable."""

    problem: Problem


Item = tuple[int, Row] | Problem | Note
"""A row with its number in the file (the line for jsonl, the record for csv), from 1."""

"""Column types and the check that rows have the shape that the dataset's format promises."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from kubetune.api.dataset import ColumnMapping, DatasetFormat
from kubetune.api.inspection import Column, Problem

from kubetune_runner.data.findings import Findings, listing, quote
from kubetune_runner.data.readers import Row
from kubetune_runner.errors import RunError

ROLES = ("system", "user", "assistant", "tool", "developer")
_NULL = "null"


def type_of(value: Any) -> str:
    """string, int, float, bool, list, map, messages or null."""
    if value is None:
        return _NULL
    if isinstance(value, list):
        return "messages" if _looks_like_messages(cast("list[Any]", value)) else "list"
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (dict, "map")):
        if isinstance(value, kind):
            return name
    return "string"


def _looks_like_messages(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(turn, dict) and "role" in turn and "content" in turn for turn in value
    )


class ColumnTypes:
    """Types of all columns, from every row."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, row: Row) -> None:
        for name, value in row.items():
            counts = self._counts.get(name)
            if counts is None:
                counts = self._counts[name] = Counter()
            counts[type_of(value)] += 1

    def columns(self, findings: Findings) -> list[Column]:
        """The columns in order of first sight; a column of mixed types is noted."""
        columns: list[Column] = []
        for name, counts in self._counts.items():
            found = {kind: count for kind, count in counts.items() if kind != _NULL}
            if set(found) == {"int", "float"}:
                found = {"float": 1}
            if set(found) == {"list", "messages"}:
                found = {"list": 1}
            kind = max(found, key=lambda each: found[each], default=_NULL)
            if len(found) > 1:
                mixture = ", ".join(f"{each} in {count:,} rows" for each, count in found.items())
                findings.note(
                    Problem(
                        field=name[:256],
                        message=f"column {quote(name)} mixes types: {mixture}; use one type",
                    )
                )
            columns.append(Column(name=name[:256], type=kind))
        return columns


class FormatCheck:
    """Whether rows can be used as the format says."""

    def __init__(self, format: DatasetFormat, columns: ColumnMapping, findings: Findings) -> None:
        self._format = format
        self._findings = findings
        self._usable = 0
        self._present: set[str] = set()
        self.columns: dict[str, str] = {
            role: getattr(columns, role)
            for role in {
                "promptCompletion": ("prompt", "completion"),
                "text": ("text",),
                "messages": ("messages",),
                "preference": ("prompt", "chosen", "rejected"),
            }[format]
        }
        """Role to column name."""

    def add(self, file: str, number: int, row: Row) -> None:
        """Check a row; rows that lack a column are summed up by ``finish``."""
        usable = True
        for name in self.columns.values():
            if name not in row:
                usable = False
                continue
            self._present.add(name)
            check = _messages_fault if self._format == "messages" else _text_fault
            fault = check(row[name])
            if fault:
                usable = False
                self._findings.note(
                    Problem(file=file, row=number, field=name, message=f"{quote(name)} {fault}")
                )
        self._usable += usable

    def finish(self, existing: list[str], rows: int) -> None:
        """Note missing columns; raise RunError where no row can be used.

        The columns of promptCompletion may be missing: a PromptTemplate may use others.
        """
        missing = {role: name for role, name in self.columns.items() if name not in self._present}
        for role, name in missing.items():
            message = (
                f"no row has a column {quote(name)}; the columns are {listing(existing)}."
                f" Set spec.columns.{role}"
            )
            if self._format == "promptCompletion":
                message += ", or use a PromptTemplate"
            self._findings.note(Problem(field=name, message=_shorten(message)))
        if self._usable or self._format == "promptCompletion":
            return
        if missing:
            role, name = next(iter(missing.items()))
            raise RunError(
                "ColumnMissing",
                f"format {self._format} needs a column {quote(name)}, which no row has; the"
                f" columns are {listing(existing)}. Set spec.columns.{role}, or another"
                " spec.format",
            )
        raise RunError(
            "NoUsableRows",
            f"none of the {rows:,} rows fits format {self._format}; see the problems, or set"
            " another spec.format",
        )


def _shorten(message: str) -> str:
    return message if len(message) <= 512 else f"{message[:511]}…"


def _text_fault(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return "is empty"
    if isinstance(value, (list, dict)):
        return f"is a {type_of(cast(Any, value))}, not text"
    return None


def _messages_fault(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"is a {type_of(value)}, not a list of turns with role and content"
    if not value:
        return "has no turns"
    turns = cast("list[Any]", value)
    assistants = 0
    for at, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            return f"has a turn {at} that isn't a map with role and content"
        fields = cast("dict[str, Any]", turn)
        if "from" in fields and "role" not in fields:
            return "has turns with from and value; rename them to role and content"
        role = fields.get("role")
        if role not in ROLES:
            return f"has a turn {at} whose role isn't one of {', '.join(ROLES)}"
        content = fields.get("content")
        if not isinstance(content, str) and not fields.get("tool_calls"):
            return f"has a turn {at} whose content isn't text"
        if role == "assistant":
            assistants += 1
    return None if assistants else "has no turn of the assistant, which training learns"

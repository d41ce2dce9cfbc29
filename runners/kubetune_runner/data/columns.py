"""Column types and the check that rows have the shape that the dataset's format promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kubetune.api.dataset import FORMAT_ROLES, ColumnMapping, DatasetFormat
from kubetune.api.inspection import Column, Problem

from kubetune_runner.data.findings import KEPT, Findings, listing, quote
from kubetune_runner.data.preferences import UnusableRowError, pair_of, rated_of
from kubetune_runner.data.readers import Row
from kubetune_runner.data.values import NULL, messages_fault, text_fault, tools_fault, type_of
from kubetune_runner.errors import RunError

_PREFERENCES: dict[str, Callable[[Row, ColumnMapping], object]] = {
    "preference": pair_of,
    "unpairedPreference": rated_of,
}

_LEFT_OUT = "; objectives that learn preferences leave the row out"
"""A PromptTemplate may make text of it all the same."""


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
            found = {kind: count for kind, count in counts.items() if kind != NULL}
            if set(found) == {"int", "float"}:
                found = {"float": 1}
            if set(found) == {"list", "messages"}:
                found = {"list": 1}
            kind = max(found, key=lambda each: found[each], default=NULL)
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
        self._mapping = columns
        self._findings = findings
        self._usable = 0
        self._present: set[str] = set()
        self._prompt = columns.of("prompt") if format == "preference" else None
        """A column that rows of the format may have."""
        self._tools = columns.of("tools") if format == "messages" else None
        self._as_one = _PREFERENCES.get(format)
        """Reads a row whose columns must fit each other."""
        self._lacking: list[tuple[str, int, str]] = []
        """File, row and column of cells that aren't there, in such rows."""
        self.columns: dict[str, str] = {role: columns.of(role) for role in FORMAT_ROLES[format]}
        """Role to column name."""

    def add(self, file: str, number: int, row: Row) -> None:
        """Check a row; rows that lack a column are summed up by ``finish``."""
        if self._prompt in row:
            self._present.add(self._prompt)
        missing = [name for name in self.columns.values() if name not in row]
        self._present.update(name for name in self.columns.values() if name in row)
        if self._as_one:
            if missing:
                if len(self._lacking) < KEPT:
                    self._lacking.append((file, number, missing[0]))
                return
            try:
                self._as_one(row, self._mapping)
                self._usable += 1
            except UnusableRowError as error:
                message = _shorten(f"{error}{_LEFT_OUT}")
                self._findings.note(
                    Problem(file=file, row=number, field=error.field, message=message)
                )
            return
        usable = not missing
        if self._tools and (fault := tools_fault(row.get(self._tools))):
            usable = False
            message = f"{quote(self._tools)} {fault}"
            self._findings.note(Problem(file=file, row=number, field=self._tools, message=message))
        for name in self.columns.values():
            if name not in row:
                continue
            check = messages_fault if self._format == "messages" else text_fault
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
        for file, number, name in self._lacking:
            if name in self._present:
                message = f"{quote(name)} is missing{_LEFT_OUT}"
                self._findings.note(Problem(file=file, row=number, field=name, message=message))
        if self._prompt and self._prompt not in self._present and not missing:
            message = (
                f"no row has a column {quote(self._prompt)}: what both answers begin with is taken"
                " as the prompt. If another column has it, set spec.columns.prompt"
            )
            self._findings.note(Problem(field=self._prompt, message=_shorten(message)))
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

"""Column types and the check that rows have the shape that the dataset's format promises."""

from __future__ import annotations

from collections import Counter

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.inspection import Column, Problem
from kubetune.api.rows import FORMAT_ROLES, DatasetFormat, Role

from kubetune_runner.data.findings import KEPT, Findings, listing, quote
from kubetune_runner.data.readers import Row
from kubetune_runner.data.values import NULL, text_fault, type_of
from kubetune_runner.data.verdicts import EMPTY, fault_of
from kubetune_runner.errors import RunError


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
        self._format: DatasetFormat = format
        self._mapping = columns
        self._findings = findings
        self._present: set[str] = set()
        self._prompt = columns.of("prompt") if format == "preference" else None
        """A column that rows of the format may have."""
        self._lacking: list[tuple[str, int, str]] = []
        """File, row and column of cells that aren't there."""
        self._lacks = self._blank = self._empty = 0
        self.unusable = 0
        """Rows that don't fit the format."""
        self.usable = bytearray()
        """One byte a row: 1 where it can be used as it is."""

    @property
    def empty(self) -> int:
        """Rows without a prompt, an answer or text."""
        # Where a column is missing as a whole, a PromptTemplate picks from the others.
        lacks = self._blank if self._missing() else self._lacks
        return self._empty + lacks

    def add(self, file: str, number: int, row: Row) -> None:
        """Check a row; rows that lack a column are summed up by ``finish``."""
        names = [self._mapping.of(role, row) for role in FORMAT_ROLES[self._format]]
        self._present.update(name for name in (*names, self._prompt) if name in row)
        fault = fault_of(row, self._format, self._mapping)
        self.usable.append(fault is None)
        if fault is None:
            return
        if fault.empty and fault.column not in row:
            self._lacks += 1
            self._blank += all(text_fault(value) == EMPTY for value in row.values())
            if len(self._lacking) < KEPT:
                self._lacking.append((file, number, fault.column))
            return
        self._empty += fault.empty
        self.unusable += not fault.empty
        self._note(file, number, fault.column, f"{fault}{self._left_out}")

    @property
    def _left_out(self) -> str:
        if self._format in ("preference", "unpairedPreference"):
            return "; objectives that learn preferences leave the row out"
        return "; the row is left out"

    def _missing(self) -> dict[Role, str]:
        """Roles whose column no row has, and its name."""
        roles = FORMAT_ROLES[self._format]
        names: dict[Role, str] = {role: self._mapping.of(role, self._present) for role in roles}
        return {role: name for role, name in names.items() if name not in self._present}

    def _note(self, file: str, number: int, column: str, message: str) -> None:
        self._findings.note(
            Problem(file=file, row=number, field=column[:256], message=_shorten(message))
        )

    def finish(self, existing: list[str], rows: int) -> None:
        """Note missing columns; raise RunError where no row can be used.

        The columns of promptCompletion may be missing: a PromptTemplate may use others.
        """
        missing = self._missing()
        for role, name in missing.items():
            message = (
                f"no row has a column {quote(name)}; the columns are {listing(existing)}."
                f" Set spec.columns.{role}"
            )
            if self._format == "promptCompletion":
                message += ", or use a PromptTemplate"
            self._findings.note(Problem(field=name, message=_shorten(message)))
        for file, number, name in self._lacking:
            if name not in missing.values():
                self._note(file, number, name, f"{quote(name)} is missing{self._left_out}")
        if self._prompt and self._prompt not in self._present and not missing:
            message = (
                f"no row has a column {quote(self._prompt)}: what both answers begin with is taken"
                " as the prompt. If another column has it, set spec.columns.prompt"
            )
            self._findings.note(Problem(field=self._prompt, message=_shorten(message)))
        if any(self.usable) or self._format == "promptCompletion":
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

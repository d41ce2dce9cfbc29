"""Whether a row can be learned from as it is: one verdict for inspection, training and scripts.

A row that can't is reported by the inspection and left out by whoever trains; a PromptTemplate may
make text of it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.rows import FORMAT_ROLES, DatasetFormat

from kubetune_runner.data.findings import quote
from kubetune_runner.data.items import Row
from kubetune_runner.data.preferences import UnusableRowError, pair_of, rated_of
from kubetune_runner.data.turns import WEIGHT, answers, tools_fault, turn_of, turns_fault
from kubetune_runner.data.values import text_fault

EMPTY = "is empty"
_AS_ONE: dict[str, Callable[[Row, ColumnMapping], object]] = {
    "preference": pair_of,
    "unpairedPreference": rated_of,
}
"""Formats whose columns must fit each other."""


@dataclass(frozen=True)
class Place:
    """Where a row stands in its source."""

    file: str
    number: int
    """As the file counts: the line of jsonl, else the record; from 1."""

    def __str__(self) -> str:
        return f"row {self.number:,} of file {quote(self.file)}"


@dataclass(frozen=True)
class Fault:
    """Why a row is left out."""

    column: str
    text: str
    """Half a sentence that follows the column's name."""
    empty: bool = False
    """Nothing is there, rather than something that doesn't fit."""

    def __str__(self) -> str:
        return f"{quote(self.column)} {self.text}"


def fault_of(row: Row, format: DatasetFormat, columns: ColumnMapping) -> Fault | None:
    """What keeps a row of a format from being learned from; a column that it lacks is empty."""
    if as_one := _AS_ONE.get(format):
        try:
            as_one(row, columns)
        except UnusableRowError as error:
            return Fault(error.field, error.fault, error.fault == EMPTY)
        return None
    if format == "messages":
        return _chat_fault(row, columns)
    for name in (columns.of(role, row) for role in FORMAT_ROLES[format]):
        value = row.get(name)
        if not (fault := text_fault(value)):
            continue
        if isinstance(value, (list, dict)):
            fault += f": use format messages for chats, or a PromptTemplate with {{{name}}} as JSON"
        return Fault(name, fault, fault == EMPTY)
    return None


def _chat_fault(row: Row, columns: ColumnMapping) -> Fault | None:
    name, tools = columns.of("messages", row), columns.of("tools")
    turns: Any = row.get(name)
    if turns is None or turns in ([], ""):
        return Fault(name, EMPTY, empty=True)
    if fault := turns_fault(turns):
        return Fault(name, fault)
    read = [turn_of(turn, weighted=True) for turn in turns]
    if not any(turn["role"] == "assistant" for turn in read):
        return Fault(name, "has no turn of the assistant, which training learns", empty=True)
    if not any(map(answers, read)):
        fault = "has no turn of the assistant that says something"
        if any(turn.get(WEIGHT) == 0 for turn in read):
            fault += " and whose weight isn't 0"
        return Fault(name, fault, empty=True)
    if fault := tools_fault(row.get(tools)):
        return Fault(tools, fault)
    return None

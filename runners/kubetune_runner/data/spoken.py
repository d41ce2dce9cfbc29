"""The chats of a row of any format, as chat templates read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.rows import DatasetFormat

from kubetune_runner.data.findings import quote
from kubetune_runner.data.items import Row
from kubetune_runner.data.preferences import Text, pair_of, rated_of
from kubetune_runner.data.turns import tools_of, turn_of, unread

_BESIDE = ("system", "system_prompt", "tools", "functions")
"""Columns that data sets have beside a chat, and that belong to it."""


@dataclass(frozen=True)
class Chat:
    """Turns, and what goes with them."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    """What the assistant may call."""
    unread: tuple[str, ...] = ()
    """What the row has and nobody reads, in words."""


def chats_of(row: Row, format: DatasetFormat, columns: ColumnMapping) -> list[Chat]:
    """The chats of a row without fault: two of a preference, none where all is text."""
    if format == "messages":
        turns = row[columns.of("messages", row)]
        tools = tools_of(row.get(columns.of("tools")))
        read = [turn_of(turn, weighted=True) for turn in turns]
        beside = _beside(row, {columns.of("messages", row), columns.of("tools")})
        return [Chat(read, tools, (*unread(turns, weighted=True), *beside))]
    if format == "preference":
        pair = pair_of(row, columns)
        beside = _beside(row, {columns.of(role) for role in ("prompt", "chosen", "rejected")})
        return _chats(pair.prompt, [pair.chosen, pair.rejected], (*pair.unread, *beside))
    if format == "unpairedPreference":
        rated = rated_of(row, columns)
        beside = _beside(row, {columns.of(role) for role in ("prompt", "completion", "label")})
        return _chats(rated.prompt, [rated.completion], (*rated.unread, *beside))
    return []


def _beside(row: Row, read: set[str]) -> list[str]:
    """Columns beside a chat that say something about it and are read by nobody."""
    return [
        f"column {quote(name)}"
        for name in _BESIDE
        if name not in read and row.get(name) not in (None, "", [], "[]")
    ]


def _chats(prompt: Text, answers: list[Text], unread: tuple[str, ...]) -> list[Chat]:
    if isinstance(prompt, str):
        return []
    return [
        Chat([*prompt, *answer], unread=unread) for answer in answers if not isinstance(answer, str)
    ]

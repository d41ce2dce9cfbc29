"""The chats of a row of any format, as chat templates read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.rows import DatasetFormat

from kubetune_runner.data.items import Row
from kubetune_runner.data.preferences import Text, pair_of, rated_of
from kubetune_runner.data.turns import tools_of, turn_of, unread


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
        return [Chat(read, tools, tuple(unread(turns, weighted=True)))]
    if format == "preference":
        pair = pair_of(row, columns)
        return [*_chats(pair.prompt, [pair.chosen, pair.rejected], pair.unread)]
    if format == "unpairedPreference":
        rated = rated_of(row, columns)
        return [*_chats(rated.prompt, [rated.completion], rated.unread)]
    return []


def _chats(prompt: Text, answers: list[Text], unread: tuple[str, ...]) -> list[Chat]:
    if isinstance(prompt, str):
        return []
    return [
        Chat([*prompt, *answer], unread=unread) for answer in answers if not isinstance(answer, str)
    ]

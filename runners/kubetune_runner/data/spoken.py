"""What a row says that may be left out of its text: its chats, as chat templates read them, and
what nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.prompt_template.spec import as_text
from kubetune.api.rows import FORMAT_ROLES, OPTIONAL_ROLES, DatasetFormat

from kubetune_runner.data.beside import Read, beside
from kubetune_runner.data.items import Row
from kubetune_runner.data.preferences import Text, pair_of, rated_of
from kubetune_runner.data.turns import REASONING, tools_of, turn_of, unread


@dataclass(frozen=True)
class Chat:
    """Turns, and what goes with them."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    """What the assistant may call."""


@dataclass(frozen=True)
class Spoken:
    """The chats of a row, and the rest of it."""

    chats: list[Chat] = field(default_factory=list[Chat])
    """Two of a preference, none where all is text."""
    unread: tuple[str, ...] = ()
    """What the row has and nobody reads, in words."""


def spoken_of(row: Row, format: DatasetFormat, columns: ColumnMapping) -> Spoken:
    """What a row without fault says."""
    roles = (*FORMAT_ROLES[format], *OPTIONAL_ROLES.get(format, ()))
    names = {columns.of(role, row) for role in roles}
    match format:
        case "messages":
            turns = row[columns.of("messages", row)]
            read = [turn_of(turn, weighted=True) for turn in turns]
            chats = [Chat(read, tools_of(row.get(columns.of("tools"))))]
            return Spoken(
                chats, (*unread(turns, weighted=True), *beside(row, format, names, _read(read, [])))
            )
        case "preference":
            pair = pair_of(row, columns)
            answers, left = [pair.chosen, pair.rejected], pair.unread
            prompt = pair.prompt
        case "unpairedPreference":
            rated = rated_of(row, columns)
            answers, left = [rated.completion], rated.unread
            prompt = rated.prompt
        case "promptCompletion":
            prompt, left = as_text(row[columns.prompt]), ()
            answers = [as_text(row[columns.completion])]
        case "text":
            prompt, left = as_text(row[columns.text]), ()
            answers = [prompt]
    return Spoken(
        _chats(prompt, answers), (*left, *beside(row, format, names, _read(prompt, answers)))
    )


def _chats(prompt: Text, answers: Sequence[Text]) -> list[Chat]:
    if isinstance(prompt, str):
        return []
    return [Chat([*prompt, *answer]) for answer in answers if not isinstance(answer, str)]


def _read(prompt: Text, answers: Sequence[Text]) -> Read:
    """Texts before answers, and answers; turns of the assistant are answers wherever they are."""
    asked: list[str] = []
    said: list[str] = []
    for text, texts in ((prompt, asked), *((answer, said) for answer in answers)):
        if isinstance(text, str):
            texts.append(text)
            continue
        for turn in text:
            is_answer = turn["role"] == "assistant"
            (said if is_answer else asked).append(turn["content"])
            if turn.get(REASONING):
                said.append(turn[REASONING])
    return Read(asked, said)

"""Counts rows whose text doesn't show everything that they have, or refuses them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune_runner.data.spoken import Spoken
from kubetune_runner.data.verdicts import Place
from kubetune_runner.errors import RunError
from kubetune_runner.text.chats import chat_text, naming
from kubetune_runner.text.shown import Message, hidden_in

Placed = Iterable[tuple[Place | None, Spoken]]
"""What each row says, and where it stands."""


@dataclass(frozen=True)
class Hidden:
    """Rows with parts that their text doesn't show."""

    count: int = 0
    first: str = ""
    """A sentence on the first of them."""


def find_hidden(rows: Placed, tokenizer: Any, *, refuse: bool) -> Hidden:
    """The rows that have parts which their text doesn't show.

    Raises RunError PartsHidden for the first one where that is to ``refuse``, and those of
    ``chat_text``.
    """

    def render(messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
        return chat_text(messages, tokenizer, tools)

    count, first = 0, ""
    for place, spoken in rows:
        with naming(place):
            parts = hidden_in(spoken, render)
        if parts:
            count += 1
            first = first or said_of(place, parts, refuse=refuse)
    return Hidden(count, first)


def said_of(place: Place | None, parts: Sequence[str], *, refuse: bool) -> str:
    """What isn't shown of a row, as a sentence. Raises RunError PartsHidden to ``refuse`` it."""
    told = f"{place or 'a row'}: its training text doesn't show {', '.join(parts)}"
    if refuse:
        raise RunError(
            "PartsHidden",
            f"{told}: set another tokenizer.chatTemplate, put a column into the text, take it out"
            " of the rows, or set spec.checks.hiddenParts of the Dataset to Warn",
        )
    return f"{told}, so nothing is learned from that"

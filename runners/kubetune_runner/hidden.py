"""Counts rows whose text doesn't show everything that they have, or refuses them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from kubetune_runner.data.spoken import Spoken
from kubetune_runner.data.verdicts import Place
from kubetune_runner.errors import RunError
from kubetune_runner.text.chats import chat_text, naming
from kubetune_runner.text.shown import Message, hidden_in

log = logging.getLogger(__name__)

Placed = Iterable[tuple[Place | None, Spoken]]
"""What each row says, and where it stands."""


def count_hidden(rows: Placed, tokenizer: Any, *, refuse: bool, quiet: bool = False) -> int:
    """How many rows have parts that their text doesn't show; the first is logged unless
    ``quiet``.

    Raises RunError PartsHidden for the first one where that is to ``refuse``, and those of
    ``chat_text``.
    """

    def render(messages: Sequence[Message], tools: Sequence[Any] | None) -> str:
        return chat_text(messages, tokenizer, tools)

    count = 0
    for place, spoken in rows:
        with naming(place):
            parts = hidden_in(spoken, render)
        count += bool(parts)
        if parts:
            tell(place, parts, first=count == 1 and not quiet, refuse=refuse)
    return count


def tell(place: Place | None, parts: Sequence[str], *, first: bool, refuse: bool) -> None:
    """Say what isn't shown of the first such row. Raises RunError PartsHidden."""
    told = f"{place or 'a row'}: its training text doesn't show {', '.join(parts)}"
    if refuse:
        raise RunError(
            "PartsHidden",
            f"{told}: set another tokenizer.chatTemplate, put a column into the text, take it out"
            " of the rows, or set spec.checks.hiddenParts of the Dataset to Warn",
        )
    if first:
        log.warning("%s, so nothing is learned from that", told)

"""Turns of chats as callers give them: as lists, arrays or JSON, with contents in parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

ANSWERED = (
    "a score belongs to an answer: give {'messages': [...]} or a list of turns that ends with the"
    " assistant's, {'prompt': ..., 'completion': ...}, several of them, or a table of either"
)


def are_turns(value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    turns = cast("Sequence[Any]", value)
    return bool(turns) and all(isinstance(turn, dict) and "role" in turn for turn in turns)


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def chat_or_text(value: Any) -> Any:
    """A cell: a list of turns, also as JSON or as an array, else what it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        found = parsed(value)
        return found if are_turns(found) else value
    return value


def turns_of(given: Sequence[Any], *, answered: bool = False) -> list[dict[str, Any]]:
    """The turns as chat templates read them: content as text, arguments of calls as maps.

    The last one is the assistant's if ``answered``, and nobody else's.
    """
    turns: list[dict[str, Any]] = []
    for turn in given:
        content = turn.get("content")
        if isinstance(content, (list, tuple)) or hasattr(content, "tolist"):
            content = _joined(cast("Sequence[Any]", content))
        if not isinstance(content, str) and not turn.get("tool_calls"):
            raise ValueError(f"a turn of {turn['role']} has no content that is text")
        calls = [
            call | {"function": call["function"] | {"arguments": parsed(arguments)}}
            if isinstance(arguments := call["function"].get("arguments"), str)
            else call
            for call in turn.get("tool_calls") or ()
        ]
        rest = {name: value for name, value in turn.items() if value is not None}
        turns.append(rest | {"content": content or ""} | ({"tool_calls": calls} if calls else {}))
    ends = turns[-1]["role"] == "assistant"
    if ends and not answered:
        raise ValueError("the last turn is the assistant's already; end with a question")
    if answered and not ends:
        raise ValueError(f"{ANSWERED}; the last turn here is of {turns[-1]['role']}")
    return turns


def _joined(parts: Sequence[Any]) -> str:
    """The text of a content that is in parts."""
    texts: list[str] = []
    for part in parts:
        text = cast("dict[str, Any]", part).get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise ValueError("a turn has a part that isn't text, which this model can't read")
        texts.append(text)
    return "".join(texts)

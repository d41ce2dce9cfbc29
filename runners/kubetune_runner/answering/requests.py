"""What answers are asked for, in the forms that callers of a model use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from .turns import are_turns, parsed, turns_of

_TAKEN = "give a text, a list of turns with role and content, {'messages': [...]}, or several"
_LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens")
_KNOWN = ("messages", "prompt", "tools", "model", *_LIMITS)
_HARMLESS: dict[str, Any] = {"temperature": 0, "n": 1, "stream": False}
"""Settings of requests that change nothing, with these values."""


@dataclass(frozen=True)
class Request:
    """One answer that is asked for: of a text, or of the turns of a chat."""

    text: str = ""
    turns: list[dict[str, Any]] | None = None
    tools: list[Any] | None = None
    limit: int | None = None
    """New tokens, where the request has a limit of its own."""


def requests_of(given: Any) -> list[Request]:
    """What is asked for: one or a list of texts, lists of turns, or OpenAI's requests.

    A table has them in a column messages or prompt. Raises ValueError or TypeError with what is
    taken, since anything else would be answered as if its Python form were the question.
    """
    if hasattr(given, "columns"):
        return [_request(one) for one in _cells(given)]
    if hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, (str, dict)) or are_turns(given):
        given = [given]
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{_TAKEN}; this is a {type(given).__name__}")
    return [_request(one) for one in cast("Sequence[Any]", given)]


def _cells(table: Any) -> list[Any]:
    names = [str(name) for name in table.columns]
    column = next((name for name in ("messages", "prompt") if name in names), None)
    if column is None and len(names) > 1:
        raise ValueError(f"the table needs a column messages or prompt; it has {', '.join(names)}")
    cells = table[column] if column else table.iloc[:, 0]
    if column == "messages":
        cells = [parsed(cell) if isinstance(cell, str) else cell for cell in cells]
    tools = table["tools"] if column == "messages" and "tools" in names else None
    if tools is None:
        return list(cells)
    return [{"messages": chat, "tools": one} for chat, one in zip(cells, tools, strict=True)]


def _request(one: Any) -> Request:
    if hasattr(one, "tolist"):
        one = one.tolist()
    if isinstance(one, str):
        return Request(text=one)
    if are_turns(one):
        return Request(turns=turns_of(one))
    if not isinstance(one, dict):
        raise TypeError(f"{_TAKEN}; this one is a {type(one).__name__}")
    one = cast("dict[str, Any]", one)
    others = [name for name, value in one.items() if _counts(name, value)]
    if others or ("messages" in one) == ("prompt" in one):
        what = f"{', '.join(others)}: not taken; " if others else ""
        raise ValueError(f"{what}a request has messages or prompt, tools and {_LIMITS[0]}")
    limit = next((int(one[name]) for name in _LIMITS if one.get(name)), None)
    chat, tools = one.get("messages", one.get("prompt")), one.get("tools")
    found = _request(parsed(chat) if isinstance(chat, str) and "messages" in one else chat)
    if isinstance(tools, str):
        tools = parsed(tools)
    return Request(found.text, found.turns, list(tools) if tools is not None else None, limit)


def _counts(name: str, value: Any) -> bool:
    return value is not None and name not in _KNOWN and _HARMLESS.get(name, ...) != value

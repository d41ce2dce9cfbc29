"""What a cell holds, and what is wrong with it as text or as a chat; a fault is half a sentence."""

from __future__ import annotations

from typing import Any, cast

ROLES = ("system", "user", "assistant", "tool", "developer")
NULL = "null"


def type_of(value: Any) -> str:
    """string, int, float, bool, list, map, messages or null."""
    if value is None:
        return NULL
    if isinstance(value, list):
        return "messages" if _looks_like_messages(cast("list[Any]", value)) else "list"
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (dict, "map")):
        if isinstance(value, kind):
            return name
    return "string"


def text_fault(value: Any) -> str | None:
    """Why a cell is no text to learn from."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "is empty"
    if isinstance(value, (list, dict)):
        return f"is a {type_of(cast(Any, value))}, not text"
    return None


def messages_fault(value: Any) -> str | None:
    """Why a cell is no chat to learn from."""
    if fault := turns_fault(value):
        return fault
    if not any(turn["role"] == "assistant" for turn in value):
        return "has no turn of the assistant, which training learns"
    return None


def turns_fault(value: Any) -> str | None:
    """Why a cell isn't a list of turns."""
    if not isinstance(value, list):
        return f"is a {type_of(value)}, not a list of turns with role and content"
    if not value:
        return "has no turns"
    for at, turn in enumerate(cast("list[Any]", value), 1):
        if not isinstance(turn, dict):
            return f"has a turn {at} that isn't a map with role and content"
        fields = cast("dict[str, Any]", turn)
        if "from" in fields and "role" not in fields:
            return "has turns with from and value; rename them to role and content"
        if fields.get("role") not in ROLES:
            return f"has a turn {at} whose role isn't one of {', '.join(ROLES)}"
        if not isinstance(fields.get("content"), str) and not fields.get("tool_calls"):
            return f"has a turn {at} whose content isn't text"
    return None


def _looks_like_messages(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(turn, dict) and "role" in turn and "content" in turn for turn in value
    )

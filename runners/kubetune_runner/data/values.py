"""What a cell holds, and what is wrong with it as text; a fault is half a sentence."""

from __future__ import annotations

from typing import Any, cast

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


def _looks_like_messages(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(turn, dict)
        and (("role" in turn and "content" in turn) or ("from" in turn and "value" in turn))
        for turn in value
    )


def without_nulls(value: Any) -> Any:
    """A value without the fields of its maps that hold nothing."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: without_nulls(item) for key, item in items if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in cast("list[Any]", value)]
    return value

"""What a cell holds, and what is wrong with it as text or as a chat; a fault is half a sentence."""

from __future__ import annotations

import json
from typing import Any, cast

ROLES = ("system", "user", "assistant", "tool", "developer")
NULL = "null"
REASONING = "reasoning_content"
REASONING_NAMES = (REASONING, "thinking", "reasoning")
"""What datasets and chat templates call that which the assistant thinks before it speaks."""


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
    called: list[str] = []
    for at, turn in enumerate(cast("list[Any]", value), 1):
        if not isinstance(turn, dict):
            return f"has a turn {at} that isn't a map with role and content"
        fields = cast("dict[str, Any]", turn)
        if "from" in fields and "role" not in fields:
            return "has turns with from and value; rename them to role and content"
        if fields.get("role") not in ROLES:
            return f"has a turn {at} whose role isn't one of {', '.join(ROLES)}"
        calls = fields.get("tool_calls")
        if calls and (fault := _calls_fault(fields, called)):
            return f"has a turn {at} {fault}"
        if not isinstance(fields.get("content"), str) and not calls:
            return f"has a turn {at} whose content isn't text"
        if fields["role"] == "tool" and not called:
            return f"has a turn {at} of a tool that no turn of the assistant has called"
    return None


def turn_of(value: dict[str, Any]) -> dict[str, Any]:
    """A turn without fault, as chat templates read it: arguments of calls as maps."""
    turn: dict[str, Any] = {"role": value["role"], "content": value.get("content") or ""}
    for name in ("name", "tool_call_id"):
        if value.get(name) and value["role"] == "tool":
            turn[name] = value[name]
    thought = next((value[name] for name in REASONING_NAMES if value.get(name)), None)
    if isinstance(thought, str) and value["role"] == "assistant":
        turn[REASONING] = thought
    if calls := value.get("tool_calls"):
        turn["tool_calls"] = [
            {
                **({"id": call["id"]} if call.get("id") else {}),
                "type": "function",
                "function": {
                    "name": call["function"]["name"],
                    "arguments": _arguments(call["function"]),
                },
            }
            for call in calls
        ]
    return turn


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """The tools of a cell: a list of maps, also as JSON text.

    Raises ValueError with half a sentence.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("is neither a list of tools nor JSON of one") from None
    if not value:
        return None
    if not isinstance(value, list):
        raise ValueError(f"is a {type_of(value)}, not a list of tools")
    for at, tool in enumerate(cast("list[Any]", value), 1):
        function: Any = cast("dict[str, Any]", tool).get("function", tool) if tool else None
        if not isinstance(function, dict) or not function.get("name"):
            raise ValueError(
                f"has a tool {at} without a name: give a function with its JSON schema"
            )
    # Parquet has the same fields in all rows, and null where one has none.
    return [_without_nulls(tool) for tool in cast("list[Any]", value)]


def tools_fault(value: Any) -> str | None:
    """Why a cell is no list of tools."""
    try:
        tools_of(value)
    except ValueError as error:
        return str(error)
    return None


def _calls_fault(fields: dict[str, Any], called: list[str]) -> str | None:
    """Why the calls of a turn are none; the names of called functions go to ``called``."""
    if fields["role"] != "assistant":
        return "with tool_calls whose role isn't assistant"
    calls: Any = fields["tool_calls"]
    if not isinstance(calls, list):
        return "whose tool_calls aren't a list"
    for call in cast("list[Any]", calls):
        function: Any = cast("dict[str, Any]", call).get("function") if call else None
        name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            return "with a call that has no function with a name"
        try:
            _arguments(function)
        except ValueError:
            return f"with a call of {name} whose arguments are neither a map nor JSON of one"
        called.append(name)
    return None


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, which many data sets have as JSON text."""
    given = function.get("arguments")
    value: Any = json.loads(given) if isinstance(given, str) and given.strip() else given or {}
    if not isinstance(value, dict):
        raise ValueError("no map")
    return cast("dict[str, Any]", value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _without_nulls(item) for key, item in items if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in cast("list[Any]", value)]
    return value


def _looks_like_messages(value: list[Any]) -> bool:
    return bool(value) and all(
        isinstance(turn, dict) and "role" in turn and "content" in turn for turn in value
    )

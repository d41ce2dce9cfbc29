"""Chats as data sets have them, of OpenAI's form and ShareGPT's: what a turn says, and its faults.

A fault is half a sentence that follows the column's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from kubetune_runner.data.strict_json import loads_text
from kubetune_runner.data.values import type_of, without_nulls

ROLES = ("system", "user", "assistant", "tool", "developer")
_SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function": "tool",
}
"""Other words for roles: ShareGPT's, those of tools in it, and OpenAI's older one."""
_CALL = "function_call"
"""ShareGPT's role of a turn, and OpenAI's older field, that calls one tool."""
REASONING = "reasoning_content"
REASONING_NAMES = (REASONING, "thinking", "reasoning")
"""What datasets and chat templates call that which the assistant thinks before it speaks."""
WEIGHT = "weight"
"""OpenAI's field that says whether training learns a turn of the assistant: 1, or 0 for not."""
_TEXT_PARTS = (None, "text", "input_text", "output_text")
"""Types of the parts of a content that are text."""
_READ = {"role", "content", "from", "value", "tool_calls", _CALL}
"""Fields of any turn that are read."""
_READ_OF_CALLS = {"id", "type", "index", "function"}
_READ_OF_FUNCTIONS = {"name", "arguments"}


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
        role = _role(fields)
        if role is None:
            names = "from" if fields.get("from") and not fields.get("role") else "role"
            return f"has a turn {at} whose {names} isn't one of {', '.join(ROLES)}"
        try:
            calls = _calls_of(fields, role)
        except ValueError as error:
            return f"has a turn {at} {error}"
        called += [call["function"]["name"] for call in calls]
        try:
            content = _content(fields)
        except ValueError as error:
            return f"has a turn {at} {error}"
        if content is None and not calls:
            return f"has a turn {at} whose content isn't text"
        if role == "tool" and not called:
            return f"has a turn {at} of a tool that no turn of the assistant has called"
    return None


def turn_of(value: Mapping[str, Any], *, weighted: bool = False) -> dict[str, Any]:
    """A turn without fault, as chat templates read it: arguments of calls as maps.

    If ``weighted``, one that isn't to be learned says so.
    """
    role = _role(value)
    calls = _calls_of(value, role)
    turn: dict[str, Any] = {"role": role, "content": _content(value) or ""}
    for name in ("name", "tool_call_id"):
        if _holds(value.get(name)) and role == "tool":
            turn[name] = value[name]
    if role == "assistant" and (taken := _taken(value)):
        turn[REASONING] = value[taken]
    if calls:
        turn["tool_calls"] = calls
    if weighted and _weighs(value, role) and not value[WEIGHT]:
        turn[WEIGHT] = 0
    return turn


def _weighs(turn: Mapping[str, Any], role: str | None) -> bool:
    """Whether a turn says as OpenAI has it whether it is to be learned; Parquet has 0.0 for 0."""
    weight = turn.get(WEIGHT)
    return role == "assistant" and not isinstance(weight, bool) and weight in (0, 1)


def answers(turn: Mapping[str, Any]) -> bool:
    """Whether a turn, as ``turn_of`` gives it, is one that training learns something from."""
    if turn["role"] != "assistant" or turn.get(WEIGHT) == 0:
        return False
    return bool(turn["content"].strip() or turn.get("tool_calls"))


def unread(turns: Sequence[Mapping[str, Any]], *, weighted: bool = False) -> list[str]:
    """Fields of turns without fault that hold something and are read by nobody, each once.

    If ``weighted``, weights of the assistant's turns are read.
    """
    found: dict[str, None] = {}
    for turn in turns:
        role = _role(turn)
        read = set(_READ)
        if role == "tool":
            read |= {"name", "tool_call_id"}
        if role == "assistant":
            taken = _taken(turn)
            read |= {name for name in REASONING_NAMES if taken and turn.get(name) == turn[taken]}
        if weighted and _weighs(turn, role):
            read.add(WEIGHT)
        names = [name for name, value in turn.items() if _holds(value) and name not in read]
        found |= dict.fromkeys(f"field {name} of a turn" for name in names + _outdone(turn))
        found |= dict.fromkeys(_unread_within(turn))
    return list(found)


def _holds(value: Any) -> bool:
    """Whether a field says something; 0 and false do, such as the weight of a turn."""
    return value is not None and value != "" and value != [] and value != {}


def _outdone(turn: Mapping[str, Any]) -> list[str]:
    """Fields of one shape that say something else than those of the other in the same turn."""
    found: list[str] = []
    role, speaker = turn.get("role"), turn.get("from")
    if role is not None and _holds(speaker) and _role({"from": speaker}) != _role(turn):
        found.append("from")
    if turn.get("content") is not None and turn.get("value") not in (None, "", turn["content"]):
        found.append("value")
    # The role comes first, then the list: as _given_calls takes them.
    is_call = _given(turn, "role", "from") == _CALL
    if is_call and _holds(turn.get("tool_calls")):
        found.append("tool_calls")
    if (is_call or _holds(turn.get("tool_calls"))) and _holds(turn.get(_CALL)):
        found.append(_CALL)
    return found


def _unread_within(turn: Mapping[str, Any]) -> list[str]:
    """Fields that nobody reads of the parts of a content, and of calls."""
    found: list[str] = []
    content = _given(turn, "content", "value")
    for part in cast("list[dict[str, Any]]", content if isinstance(content, list) else []):
        names = [name for name, value in part.items() if _holds(value)]
        found += [f"field {name} of a part" for name in names if name not in ("type", "text")]
    for call in cast("list[dict[str, Any]]", _given_calls(turn) or []):
        function: dict[str, Any] = call["function"]
        for fields, read in ((call, _READ_OF_CALLS), (function, _READ_OF_FUNCTIONS)):
            names = [name for name, value in fields.items() if _holds(value) and name not in read]
            found += [f"field {name} of a call" for name in names]
    return found


def _taken(turn: Mapping[str, Any]) -> str | None:
    """The field with the turn's thoughts; of several the first one."""
    return next(
        (name for name in REASONING_NAMES if isinstance(turn.get(name), str) and turn[name]), None
    )


def _given(turn: Mapping[str, Any], *names: str) -> Any:
    """The first field that there is: Parquet has the fields of all shapes in each row."""
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _role(turn: Mapping[str, Any]) -> str | None:
    given = _given(turn, "role", "from")
    if given in ROLES:
        return str(given)
    if given == _CALL:
        return "assistant"
    return _SPEAKERS.get(given) if isinstance(given, str) else None


def _content(turn: Mapping[str, Any]) -> str | None:
    """The text of a turn; parts of OpenAI's form are joined. Raises ValueError with words."""
    if _given(turn, "role", "from") == _CALL:
        return None
    value = _given(turn, "content", "value")
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise ValueError("whose content isn't text")
    texts: list[str] = []
    for part in cast("list[Any]", value):
        fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        kind = fields.get("type")
        if not isinstance(fields.get("text"), str) or kind not in _TEXT_PARTS:
            raise ValueError(
                f"whose content isn't text: it has a part of type {str(kind or type_of(part))[:40]}"
            )
        texts.append(fields["text"])
    return "".join(texts)


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """The tools of a cell: a list of maps, also as JSON text.

    Raises ValueError with half a sentence.
    """
    is_text = isinstance(value, str)
    if is_text and value.strip():
        try:
            value = loads_text(value)
        except ValueError:
            raise ValueError("is neither a list of tools nor JSON of one") from None
    if not value:
        return None
    if not isinstance(value, list):
        raise ValueError(f"is a {type_of(value)}, not a list of tools")
    for at, tool in enumerate(cast("list[Any]", value), 1):
        fields = cast("dict[str, Any]", tool) if isinstance(tool, dict) else {}
        function: Any = fields.get("function", fields)
        if not isinstance(function, dict) or not cast("dict[str, Any]", function).get("name"):
            raise ValueError(
                f"has a tool {at} without a name: give a function with its JSON schema"
            )
    if is_text:
        return cast("list[dict[str, Any]]", value)
    # Parquet has the same fields in all rows, and null where one has none.
    return [without_nulls(tool) for tool in cast("list[Any]", value)]


def tools_fault(value: Any) -> str | None:
    """Why a cell is no list of tools."""
    try:
        tools_of(value)
    except ValueError as error:
        return str(error)
    return None


def _calls_of(turn: Mapping[str, Any], role: str | None) -> list[dict[str, Any]]:
    """The calls of a turn, with arguments as maps. Raises ValueError with words on the turn."""
    given = _given_calls(turn)
    if not given:
        return []
    if role != "assistant":
        raise ValueError("with tool_calls whose role isn't assistant")
    if not isinstance(given, list):
        raise ValueError("whose tool_calls aren't a list")
    return [_call_of(call) for call in cast("list[Any]", given)]


def _given_calls(turn: Mapping[str, Any]) -> Any:
    """The calls of a turn in OpenAI's present form, whatever they are in."""
    if _given(turn, "role", "from") == _CALL:
        return [{"function": _older_call(_given(turn, "content", "value"))}]
    if turn.get(_CALL) and not turn.get("tool_calls"):
        return [{"function": _older_call(turn[_CALL])}]
    return turn.get("tool_calls")


def _call_of(call: Any) -> dict[str, Any]:
    fields = cast("dict[str, Any]", call) if isinstance(call, dict) else {}
    function: Any = fields.get("function")
    name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError("with a call that has no function with a name")
    try:
        arguments = _arguments(cast("dict[str, Any]", function))
    except ValueError:
        raise ValueError(
            f"with a call of {name[:80]} whose arguments are neither a map nor JSON of one"
        ) from None
    return {
        **({"id": fields["id"]} if _holds(fields.get("id")) else {}),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _older_call(value: Any) -> Any:
    """A call as ShareGPT and OpenAI's older form have it: a map, or JSON text of one."""
    if not isinstance(value, str):
        return value
    try:
        return loads_text(value)
    except ValueError:
        raise ValueError("with a function_call that isn't JSON of name and arguments") from None


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call, which many data sets have as JSON text."""
    given = function.get("arguments")
    if given is None or given in ("", []):
        return {}
    value: Any = loads_text(given) if isinstance(given, str) else given
    if not isinstance(value, dict):
        raise ValueError("no map")
    return cast("dict[str, Any]", value)

"""Merge and JSON patches as the API server applies them; nothing is changed in place."""

from __future__ import annotations

from typing import Any

from kubetune.api import JsonObject


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386; parts that stay are shared with the old value."""
    if not isinstance(patch, dict):
        return patch
    new: JsonObject = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merged(new.get(key), value)
    return new


def patched(old: JsonObject, operations: list[JsonObject]) -> JsonObject:
    """RFC 6902, as far as clients here use it. Raises ValueError when a test fails."""
    new: Any = old
    for operation in operations:
        path = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        new = _changed(new, path, operation)
    return new


def _changed(value: Any, path: list[str], operation: JsonObject) -> Any:
    head, rest = path[0], path[1:]
    new: Any = list(value) if isinstance(value, list) else dict(value or {})
    at: Any = head
    if isinstance(new, list):
        at = len(new) if head == "-" else int(head)
    if rest:
        new[at] = _changed(new[at], rest, operation)
        return new
    match operation["op"]:
        case "test":
            if new[at] != operation["value"]:
                raise ValueError(f"test of {operation['path']} failed")
        case "remove":
            del new[at]
        case "add" if isinstance(new, list):
            new.insert(at, operation["value"])
        case _:
            new[at] = operation["value"]
    return new

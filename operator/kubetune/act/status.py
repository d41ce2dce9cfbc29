"""The one status write of a reconcile, and only if something changed."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]


def status_patch(old: JsonObject, new: JsonObject) -> JsonObject | None:
    """A merge patch that turns one status into the other; None when they are equal."""
    changes = _difference(old, new)
    return {"status": changes} if changes else None


def _difference(old: JsonObject, new: JsonObject) -> JsonObject:
    changes: JsonObject = {}
    for key in old.keys() - new.keys():
        changes[key] = None
    for key, value in new.items():
        before = old.get(key)
        if before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):
            changes[key] = _difference(before, value)
        else:
            changes[key] = value
    return changes

"""What all list operations share: filter, order, pages."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kubetune_devcluster.cml.server.behaviour import Behaviour
from kubetune_devcluster.cml.server.contract import Operation
from kubetune_devcluster.cml.server.errors import invalid

Rows = Sequence[dict[str, Any]]


def page(
    rows: Rows,
    field: str,
    operation: Operation,
    query: Mapping[str, str],
    behaviour: Behaviour,
) -> dict[str, Any]:
    """One page of ``rows`` (oldest first) as an answer whose items are in ``field``."""
    found = _filtered(rows, operation, query.get("search_filter", ""), behaviour)
    found = _sorted(found, query.get("sort", ""), behaviour)
    size = int(query.get("page_size") or 0)
    if size < 0:
        raise invalid(f"page_size must not be negative, got {size}")
    size = min(size or behaviour.default_page_size, behaviour.page_size_limit)
    start = _offset(query.get("page_token", ""))
    end = start + size
    return {field: found[start:end], "next_page_token": _token(end) if end < len(found) else ""}


def matches(given: str, wanted: str, behaviour: Behaviour) -> bool:
    """Whether a text passes the filter."""
    match behaviour.name_filter:
        case "ignored":
            return True
        case "exact":
            return given == wanted
        case "substring":
            return wanted.lower() in given.lower()


def _filtered(
    rows: Rows, operation: Operation, written: str, behaviour: Behaviour
) -> list[dict[str, Any]]:
    if not written:
        return list(rows)
    try:
        wanted = json.loads(written)
    except ValueError as error:
        raise invalid(f"search_filter is not JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise invalid("search_filter must be a JSON object")
    found = list(rows)
    for key, value in cast("dict[str, Any]", wanted).items():
        dynamic = any(one.endswith(".") and key.startswith(one) for one in operation.filters)
        if key not in operation.filters and not dynamic:
            allowed = ", ".join(operation.filters)
            raise invalid(f'search_filter key "{key}" is none of {allowed}')
        asked = str(value)
        found = [row for row in found if matches(_field(row, key), asked, behaviour)]
    return found


def _field(row: Mapping[str, Any], key: str) -> str:
    kind, dot, name = key.partition(".")
    if dot and kind in ("metrics", "tags", "params"):
        pairs: list[dict[str, Any]] = row.get("data", {}).get(kind, [])
        return next((str(pair["value"]) for pair in pairs if pair["key"] == name), "")
    value: Any = row
    for part in key.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    if key == "status":
        # Filters use the short words, whatever the answers say.
        return str(value).removeprefix("ENGINE_").removeprefix("EXPERIMENT_RUN_").lower()
    return str(value).lower() if isinstance(value, bool) else str(value)


def _sorted(rows: list[dict[str, Any]], written: str, behaviour: Behaviour) -> list[dict[str, Any]]:
    if not written:
        return rows if behaviour.default_order == "oldest" else rows[::-1]
    found = rows
    for part in reversed([part.strip() for part in written.split(",") if part.strip()]):
        # A plus that nobody encoded is a blank by the time it arrives.
        key = part.lstrip("+-")
        if found and _missing(found[0], key):
            raise invalid(f'sort key "{key}" is unknown')
        found = sorted(found, key=lambda row: _field(row, key), reverse=part.startswith("-"))
    return found


def _missing(row: Mapping[str, Any], key: str) -> bool:
    return key.partition(".")[0] not in row


def _token(offset: int) -> str:
    return base64.urlsafe_b64encode(f"offset:{offset}".encode()).decode()


def _offset(token: str) -> int:
    if not token:
        return 0
    try:
        word, _, offset = base64.urlsafe_b64decode(token).decode().partition(":")
        if word == "offset" and offset.isdecimal():
            return int(offset)
    except (binascii.Error, UnicodeDecodeError):
        pass
    raise invalid(f'page_token "{token}" is invalid')

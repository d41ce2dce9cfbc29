"""JSON as its standard has it: what Python would accept beyond that is reported, not guessed at."""

from __future__ import annotations

import json
from typing import Any

from kubetune_runner.data.findings import quote


def loads(text: str) -> Any:
    """The value of a JSON text.

    Raises json.JSONDecodeError, and ValueError with words for NaN and for an object that names
    something twice, of which Python would keep the last.
    """
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)


def loads_text(text: str) -> Any:
    """The value of JSON within a text of a row, whose escapes nobody has seen yet.

    Raises ValueError, too, for half of a surrogate pair and for numbers that are too large.
    """
    value = loads(text)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON; use null")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object names {quote(twice)} twice; remove one of them")
    return found

"""What the API server makes of a value in a manifest."""

from __future__ import annotations

from decimal import Decimal
from typing import Any


def stored(value: Any) -> Any:
    """A value as the API server gives it back: names in order, numbers as Go's, text as UTF-8."""
    if isinstance(value, dict):
        return dict(sorted({stored(name): stored(item) for name, item in value.items()}.items()))
    if isinstance(value, list):
        return [stored(item) for item in value]
    if isinstance(value, str):
        # json.loads joins the halves that belong together.
        whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in whole)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    number = float(value)
    return int(Decimal(repr(number))) if number.is_integer() and abs(number) < 1e21 else number

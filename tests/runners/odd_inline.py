"""Odd rows in a manifest: what YAML or JSON has, and what the API server makes of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from odd_data import TEXTS, VALUES

from tests.stored_rows import stored

HALF_PAIRS = st.sampled_from(["\ud83d", "a\udc00b", "\ud83d\ud83d\ude00"])
LOST = st.sampled_from(["\ufffd", "na\ufffdve"])
LARGE = st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**20, 1e19, 1e21, -1e300])
FLOATS = st.sampled_from([1.0, -0.0, 1.10, 1e16, 0.1 + 0.2, 5e-324, 1e-7, 123456789.0])
DATES = st.sampled_from(["2026-01-01", "12:30:00", "2026-01-01T00:00:00Z", "0x1F", "1_000", "yes"])
LONG = st.sampled_from(["x" * 20_000, "é" * 9_000])
DEEP = st.integers(90, 120).map(lambda depth: json.loads("[" * depth + "1" + "]" * depth))
CELLS = st.one_of(TEXTS, VALUES, DATES, LARGE, FLOATS, HALF_PAIRS, LOST, LONG, DEEP)


def leaves(value: Any) -> list[Any]:
    """Names and values within a value, in the order in which they are stored."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda item: stored(item[0]))
        return [leaf for name, item in items for leaf in (name, *leaves(item))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def depth(value: Any) -> int:
    """Lists and maps in each other."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return 0
    return 1 + max((depth(item) for item in inner), default=0)


def is_lost(leaf: Any) -> bool:
    """Whether the API server keeps something else than was written, or may have done so."""
    if isinstance(leaf, str):
        return "\ufffd" in stored(leaf)
    return isinstance(leaf, int | float) and not -(2**63) <= leaf < 2**63

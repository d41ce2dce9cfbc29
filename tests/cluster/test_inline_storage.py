"""What the API server keeps of inline rows is what tests without one take it for."""

from __future__ import annotations

from typing import Any

import pytest
from api_client import ApiClient, collection, manifest
from kubetune.api.kinds.table import BY_KIND

from tests.stored_rows import stored

pytestmark = pytest.mark.cluster

CELLS: list[Any] = [
    *("", " ", "\x00", "a\x00b", "\ufeffa", "a\u2028b\x85c\x1cd", "\ud83d", "a\udc00b"),
    *("\ud83d\ud83d\ude00", "\ud83d\ude00", "\udc00\ud83d", "\ufffd", "<b>&amp;", "\U0010ffff"),
    *(0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 10**20, 10**21, 10**40),
    *(1.0, -0.0, 1.1, 0.1 + 0.2, 1e15, 1e16, 1e19, 1e20, 1e21, 1.5e22, 123456789012345678.0),
    *(5e-324, 1e-7, -1e300, 9007199254740993.0, True, False, None),
    *([], {}, [[]], [1.0, None, {"a": 2.0}], {"": 1, "\x00": 2, "\ud83d": 3, "a b ": 4}),
    *("x" * 20_000, "é" * 9_000),
]


def test_what_is_kept(api: ApiClient) -> None:
    kind = BY_KIND["Dataset"]
    rows = [{"cell": cell} for cell in CELLS]
    path = f"{collection(kind)}?dryRun=All&fieldValidation=Strict"
    body = manifest(kind, {"source": {"inline": {"rows": rows}}})
    status, answer = api.request("POST", path, body)
    assert status == 201, answer
    kept = answer["spec"]["source"]["inline"]["rows"]
    told = [
        (cell, after["cell"])
        for cell, after in zip(CELLS, kept, strict=True)
        if repr(stored(cell)) != repr(after["cell"])
    ]
    assert told == []

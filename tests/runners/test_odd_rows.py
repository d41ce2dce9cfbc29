"""Odd rows of texts and answers: what trains, decoded again, is what the row says, or it is told.

hypothesis draws values and ways to write them; the expectation is made from the values alone.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_data import (
    BOS,
    DRAWN,
    MANY,
    TEXTS,
    VALUES,
    Laboratory,
    Row,
    ended,
    json_document,
    json_lines,
    make_laboratory,
    table,
)

__all__ = ["make_laboratory"]

NAMES = ("prompt", "completion", "text", "a b ", "überschrift", "x" * 300, '"', "{n}")
OTHERS = st.dictionaries(st.sampled_from(["id", "", "meta", "\x00", "k" * 400]), VALUES, max_size=2)
UNTOLD = object()
"""Nothing to learn from: the row must be named."""


def says(value: Any) -> Any:
    """A cell as text."""
    if isinstance(value, str):
        return value if value.strip() else UNTOLD
    if value is None or isinstance(value, (list, dict)):
        return UNTOLD
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


@st.composite
def sources(draw: st.DrawFn, suffixes: tuple[str, ...]) -> tuple[Any, ...]:
    """Rows in a file: format, mapping, what each row says, the file, and its delimiter."""
    format = draw(st.sampled_from(["text", "promptCompletion"]))
    roles = ["text"] if format == "text" else ["prompt", "completion"]
    columns = dict(
        zip(roles, draw(st.permutations(NAMES)), strict=False) if draw(st.booleans()) else ()
    )
    columns = {role: columns.get(role, role)[:256] for role in roles}
    suffix = draw(st.sampled_from(suffixes))
    cells = TEXTS if suffix == "csv" else VALUES
    rows: list[Row] = []
    for _ in range(draw(st.integers(1, 6))):
        row: Row = {} if suffix == "csv" else dict(draw(OTHERS))
        for name in columns.values():
            if suffix == "csv" or draw(st.integers(0, 9)):
                row[name] = draw(st.one_of(TEXTS, cells))
        rows.append(row)
    said = [[says(row.get(name)) for name in columns.values()] for row in rows]
    delimiter = None
    if suffix == "csv":
        delimiter = draw(st.sampled_from([None, ",", ";", "\t", "|"]))
        content, numbers = draw(table(rows, delimiter or ","))
    elif suffix == "json":
        content, numbers = draw(json_document(rows))
    else:
        content, numbers = draw(json_lines(rows))
    return format, columns, said, suffix, delimiter, content, numbers


def check(laboratory: Laboratory, source: tuple[Any, ...]) -> None:
    format, columns, said, suffix, delimiter, content, numbers = source
    found = laboratory.find(
        content, suffix, dataset={"format": format, "columns": columns}, delimiter=delimiter
    )
    expected = [parts for parts in said if UNTOLD not in parts]
    if found.inspection.status == "failed":
        assert found.inspection.reason in ("NoUsableRows", "ColumnMissing", "NoRows")
        assert not expected
        found.check_refused()
        return
    found.check_agreed()
    left_out = {number for number, parts in zip(numbers, said, strict=True) if UNTOLD in parts}
    if not expected:
        return
    assert found.named >= left_out or len(found.problems) == 20
    assert not found.named & (set(numbers) - left_out) or _repeats(found)
    before = BOS if format == "text" else ""
    assert found.texts() == [
        (BOS + ended("".join(parts)), before + ended(parts[-1])) for parts in expected
    ]


def _repeats(found: Any) -> bool:
    return bool(found.checks["duplicateRows"])


JSON_FILES = sources(("json", "jsonl"))
TABLES = sources(("csv",))


@DRAWN
@given(source=JSON_FILES)
def test_json(laboratory: Laboratory, source: tuple[Any, ...]) -> None:
    check(laboratory, source)


@DRAWN
@given(source=TABLES)
def test_tables(laboratory: Laboratory, source: tuple[Any, ...]) -> None:
    check(laboratory, source)


@pytest.mark.exhaustive
@MANY
@given(source=st.one_of(JSON_FILES, TABLES))
def test_many_files(laboratory: Laboratory, source: tuple[Any, ...]) -> None:
    check(laboratory, source)

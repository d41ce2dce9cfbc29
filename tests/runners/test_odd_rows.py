"""Odd rows of texts and answers: what trains, decoded again, is what the row says, or it is told.

hypothesis draws values and ways to write them; the expectation is made from the values alone.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_data import (
    DRAWN,
    MANY,
    TEXTS,
    UNHURRIED_SECONDS,
    VALUES,
    Laboratory,
    Row,
    json_document,
    json_lines,
    make_laboratory,
    table,
)
from odd_texts import check, says

__all__ = ["make_laboratory"]

NAMES = ("prompt", "completion", "text", "a b ", "überschrift", "x" * 300, '"', "{n}")
OTHERS = st.dictionaries(st.sampled_from(["id", "", "meta", "\x00", "k" * 400]), VALUES, max_size=2)


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
@pytest.mark.timeout(UNHURRIED_SECONDS)
@MANY
@given(source=st.one_of(JSON_FILES, TABLES))
def test_many_files(laboratory: Laboratory, source: tuple[Any, ...]) -> None:
    check(laboratory, source)

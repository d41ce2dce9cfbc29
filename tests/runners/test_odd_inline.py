"""Odd rows in a manifest: they train as they were written, or the Dataset names the cell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubetune.api.kinds.dataset.inline import inline_fault, number_as_text
from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.decide.sources import dataset_source
from kubetune.targets.values import rows_file
from odd_data import DRAWN, MANY, UNHURRIED_SECONDS, Laboratory, Row, make_laboratory
from odd_inline import CELLS, depth, is_lost, leaves
from odd_texts import check as check_texts
from odd_texts import says
from pydantic import ValidationError

from tests.stored_rows import stored

__all__ = ["make_laboratory"]

OTHERS = st.dictionaries(st.sampled_from(["id", "", "meta", "\x00", "k" * 400]), CELLS, max_size=2)


@st.composite
def manifests(draw: st.DrawFn) -> tuple[str, Row, list[Row]]:
    """Format, mapping and rows as they were written."""
    format = draw(st.sampled_from(["text", "promptCompletion"]))
    roles = ["text"] if format == "text" else ["prompt", "completion"]
    columns = {role: role for role in roles} | draw(
        st.sampled_from([{}, {roles[0]: "a b "}, {roles[-1]: "überschrift"}])
    )
    rows: list[Row] = []
    for _ in range(draw(st.integers(1, 5))):
        row: Row = dict(draw(OTHERS)) if not draw(st.integers(0, 3)) else {}
        for name in columns.values():
            if draw(st.integers(0, 9)):
                row[name] = draw(CELLS)
        rows.append(row)
    return format, columns, rows


def check(laboratory: Laboratory, manifest: tuple[str, Row, list[Row]]) -> None:
    format, columns, written = manifest
    rows: Any = stored(written)
    given = {"format": format, "columns": columns, "source": {"inline": {"rows": rows}}}
    if any(depth(row) > 100 for row in written):
        with pytest.raises(ValidationError, match="lists and maps in each other"):
            DatasetSpec.model_validate(given)
        return
    spec = DatasetSpec.model_validate(given)
    if fault := inline_fault(spec):
        row, name = int(fault[0][0]), str(fault[0][1])
        cell = written[row].get(name, name)
        assert isinstance(cell, bool) or any(map(is_lost, [name, *leaves(cell)]))
        return
    # A float comes with the same digits, in another notation.
    kept = list(zip(leaves(written), leaves(rows), strict=True))
    assert all(
        before == (float(after) if isinstance(before, float) else after) for before, after in kept
    )
    said = [[says(row.get(name)) for name in columns.values()] for row in rows]
    meant = [[says(row.get(name)) for name in columns.values()] for row in written]
    numbers = [
        row.get(name)
        for row in written
        for name in columns.values()
        if isinstance(row.get(name), int | float)
    ]
    # 1.0 comes as 1, which nobody can see any more: so each number is told.
    assert said == meant or numbers
    assert bool(numbers) == (number_as_text(spec) is not None)
    _, mounts = dataset_source("d", spec)
    content = rows_file(mounts.inline_rows or []).encode()
    check_texts(
        laboratory,
        (format, columns, said, "jsonl", None, content, list(range(1, len(rows) + 1))),
    )


@DRAWN
@given(manifest=manifests())
def test_inline_rows(laboratory: Laboratory, manifest: Any) -> None:
    check(laboratory, manifest)


@pytest.mark.exhaustive
@pytest.mark.timeout(UNHURRIED_SECONDS)
@MANY
@given(manifest=manifests())
def test_many_inline_rows(laboratory: Laboratory, manifest: Any) -> None:
    check(laboratory, manifest)

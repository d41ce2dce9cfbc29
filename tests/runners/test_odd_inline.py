"""Odd rows in a manifest: they train as they were written, or the Dataset names the cell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from kubetune.api.kinds.dataset.inline import inline_fault, number_as_text
from kubetune.api.kinds.dataset.spec import DatasetSpec
from kubetune.decide.sources import dataset_source
from kubetune.targets.values import rows_file
from odd_chats import check as check_chats
from odd_data import DRAWN, MANY, UNHURRIED_SECONDS, Laboratory, make_laboratory
from odd_inline import SPOKEN, Manifest, depth, is_lost, leaves, manifests, numbers_of_texts
from odd_preferences import check as check_preferences
from odd_texts import check as check_texts
from odd_texts import says
from pydantic import ValidationError

from tests.stored_rows import stored

__all__ = ["make_laboratory"]


def check(laboratory: Laboratory, manifest: Manifest) -> None:
    written = manifest.rows
    rows: Any = stored(written)
    given = {
        "format": manifest.format,
        "columns": manifest.columns,
        "source": {"inline": {"rows": rows}},
    }
    if any(depth(row) > 100 for row in written):
        with pytest.raises(ValidationError, match="lists and maps in each other"):
            DatasetSpec.model_validate(given)
        return
    spec = DatasetSpec.model_validate(given)
    if fault := inline_fault(spec):
        row, name = int(fault[0][0]), str(fault[0][1])
        cell = written[row].get(name, name)
        found = [name, *leaves(cell)]
        assert any(isinstance(leaf, bool) or is_lost(leaf) for leaf in found)
        return
    assert not manifest.spoilt
    # A float comes with the same digits, in another notation.
    kept = list(zip(leaves(written), leaves(rows), strict=True))
    assert all(
        before == (float(after) if isinstance(before, float) else after) for before, after in kept
    )
    numbers = list(numbers_of_texts(manifest))
    assert bool(numbers) == (number_as_text(spec) is not None)
    _, mounts = dataset_source("d", spec)
    content = rows_file(mounts.inline_rows or []).encode()
    places = list(range(1, len(rows) + 1))
    if manifest.format == "messages":
        drawn = (manifest.said, places, "jsonl", content, manifest.template)
        check_chats(laboratory, drawn, manifest.columns)
    elif manifest.format in SPOKEN:
        drawn = (manifest.format, manifest.said, places, "jsonl", content, manifest.template)
        check_preferences(laboratory, drawn, manifest.columns, manifest.beside)
    else:
        said = [[says(row.get(name)) for name in manifest.columns.values()] for row in rows]
        # 1.0 comes as 1, which nobody can see any more: so each number is told.
        assert said == manifest.said or numbers
        check_texts(
            laboratory,
            (manifest.format, manifest.columns, said, "jsonl", None, content, places),
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

"""What rows of texts and answers say, made from their values alone, and whether it is trained."""

from __future__ import annotations

from typing import Any

from odd_data import BOS, Laboratory, ended

UNTOLD = object()
"""Nothing to learn from: the row must be named."""

Source = tuple[Any, ...]
"""Format, mapping, what each row says, the file's suffix, its delimiter, itself, and numbers."""


def says(value: Any) -> Any:
    """A cell as text."""
    if isinstance(value, str):
        return value if value.strip() else UNTOLD
    if value is None or isinstance(value, (list, dict)):
        return UNTOLD
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def check(laboratory: Laboratory, source: Source) -> None:
    """What trains, decoded again, is what the rows say, or the row is named."""
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
    assert not found.named & (set(numbers) - left_out) or found.checks["duplicateRows"]
    before = BOS if format == "text" else ""
    assert found.texts() == [
        (BOS + ended("".join(parts)), before + ended(parts[-1])) for parts in expected
    ]

"""Rows in a manifest: their size, and cells that aren't what was written, by their looks.

YAML, and the API server's JSON, read some values as something else before anybody sees the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from kubetune.api.kinds.dataset.spec import ColumnMapping, DatasetSpec
from kubetune.api.rows import CONVERSATIONS, FORMAT_ROLES, OPTIONAL_ROLES, Role
from kubetune.api.schema.errors import Path

LARGEST = 2**63 - 1
"""The API server keeps larger numbers as floats, that is to about 16 digits."""
REPLACED = "\ufffd"
INLINE_ROWS: Path = ("spec", "source", "inline", "rows")
_TURNS: tuple[Role, ...] = ("messages", "prompt", "completion", "chosen", "rejected")
"""Roles of columns that may hold lists of turns."""

BOOLEAN_ADVICE = (
    "holds true or false where text belongs: YAML reads yes, no, on, off, y and n without quotes"
    " so; put quotes around the text, as in 'yes'"
)
NUMBER_ADVICE = (
    "holds a number that the API server rounds, as it is larger than 64 bits hold; put quotes"
    " around it"
)
REPLACED_ADVICE = (
    "holds U+FFFD, which stands where a character was lost, such as half of a surrogate pair or"
    " text in another encoding; write that character again, as UTF-8"
)


def inline_rows_size(rows: list[dict[str, Any]]) -> int:
    """Bytes of the rows as compact JSON lines; at most INLINE_LIMIT_BYTES are accepted."""
    import json

    return sum(
        len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()) + 1 for row in rows
    )


def inline_fault(spec: DatasetSpec) -> tuple[Path, str] | None:
    """The path below rows of the first inline cell that isn't what was written, and advice."""
    rows = spec.source.inline.rows if spec.source.inline else []
    texts = _text_columns(spec, rows, by_looks=True)
    for at, row in enumerate(rows):
        for name, value in row.items():
            for path, text in _texts_of(value, turns=name in _turn_columns(spec)):
                if isinstance(text, bool) and (path or name in texts):
                    return (at, name, *path), BOOLEAN_ADVICE
        if advice := _changed_within(row):
            path = next(path for path, leaf in _leaves(row) if _changed(leaf) == advice)
            return (at, *path), advice
    return None


def number_as_text(spec: DatasetSpec) -> Path | None:
    """The path below rows of the first number in a column of text: YAML may have rewritten it."""
    rows = spec.source.inline.rows if spec.source.inline else []
    texts = _text_columns(spec, rows, by_looks=False)
    cells = ((at, name, value) for at, row in enumerate(rows) for name, value in row.items())
    return next(
        (
            (at, name)
            for at, name, value in cells
            if name in texts and isinstance(value, int | float) and not isinstance(value, bool)
        ),
        None,
    )


def _text_columns(spec: DatasetSpec, rows: Iterable[dict[str, Any]], *, by_looks: bool) -> set[str]:
    """Columns that are to be text, or, if ``by_looks``, have it in another row."""
    mapping = spec.columns or ColumnMapping()
    roles = (*FORMAT_ROLES[spec.format], *OPTIONAL_ROLES.get(spec.format, ()))
    texts = {mapping.of(role) for role in roles if role not in ("label", "tools", "messages")}
    if by_looks:
        for row in rows:
            texts |= {name for name, value in row.items() if isinstance(value, str)}
    return texts - {mapping.of("label")}


def _turn_columns(spec: DatasetSpec) -> set[str]:
    mapping = spec.columns or ColumnMapping()
    return {mapping.of(role) for role in _TURNS} | {CONVERSATIONS}


def _texts_of(value: Any, *, turns: bool) -> Iterator[tuple[Path, Any]]:
    """What is read as text in a cell, by its path within: itself, or what each turn says."""
    if not turns or not isinstance(value, list):
        yield (), value
        return
    for at, turn in enumerate(cast("list[Any]", value)):
        fields = cast("dict[str, Any]", turn) if isinstance(turn, dict) else {}
        for name in ("content", "value"):
            yield (at, name), fields.get(name)


def _changed_within(value: Any) -> str | None:
    """Advice on what the API server has changed anywhere in a value."""
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        inner = (*fields, *fields.values())
    elif isinstance(value, list):
        inner = cast("list[Any]", value)
    return next((advice for item in inner if (advice := _changed_within(item))), _changed(value))


def _changed(value: Any) -> str | None:
    if isinstance(value, int | float) and abs(value) > LARGEST:
        return NUMBER_ADVICE
    return REPLACED_ADVICE if isinstance(value, str) and REPLACED in value else None


def _leaves(value: Any) -> Iterator[tuple[Path, Any]]:
    """Values within a value, and the names of its fields."""
    if isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            yield (name,), name
            yield from (((name, *path), leaf) for path, leaf in _leaves(item))
    elif isinstance(value, list):
        for at, item in enumerate(cast("list[Any]", value)):
            yield from (((at, *path), leaf) for path, leaf in _leaves(item))
    else:
        yield (), value

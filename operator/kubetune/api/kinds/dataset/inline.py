"""Rows in a manifest: their size, and text that YAML took for something else."""

from __future__ import annotations

from typing import Any

from kubetune.api.kinds.dataset.spec import ColumnMapping, DatasetSpec
from kubetune.api.rows import FORMAT_ROLES, OPTIONAL_ROLES


def inline_rows_size(rows: list[dict[str, Any]]) -> int:
    """Bytes of the rows as compact JSON lines; at most INLINE_LIMIT_BYTES are accepted."""
    import json

    return sum(
        len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()) + 1 for row in rows
    )


def boolean_instead_of_text(spec: DatasetSpec) -> tuple[int, str] | None:
    """Row, from 0, and column of an inline cell that was text before YAML read it, by its looks.

    YAML takes yes, no, on, off, y and n without quotes for booleans. A column that is to be text
    has none, and no column has both.
    """
    if spec.source.inline is None:
        return None
    rows, mapping = spec.source.inline.rows, spec.columns or ColumnMapping()
    roles = (*FORMAT_ROLES[spec.format], *OPTIONAL_ROLES.get(spec.format, ()))
    texts = {mapping.of(role) for role in roles if role not in ("label", "tools", "messages")}
    for row in rows:
        texts |= {name for name, value in row.items() if isinstance(value, str)}
    chats = mapping.of("messages", rows[0]) if spec.format == "messages" else None
    for at, row in enumerate(rows):
        for name, value in row.items():
            if name in texts - {mapping.of("label")} and isinstance(value, bool):
                return at, name
            if name == chats and isinstance(value, list):
                contents = [turn.get("content") for turn in value if isinstance(turn, dict)]
                if any(isinstance(content, bool) for content in contents):
                    return at, name
    return None


BOOLEAN_ADVICE = (
    "holds true or false where text belongs: YAML reads yes, no, on, off, y and n without quotes"
    " so; put quotes around the text, as in 'yes'"
)

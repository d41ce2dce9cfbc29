"""What the matrix found, kept beside the tests so that the documentation can show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.runners.matrix.cells import COLUMNS, UNMADE, Cell

FILE = Path(__file__).with_name("found.json")

Row = dict[str, Cell]


def read() -> dict[str, Row]:
    """The rows, by architecture."""
    if not FILE.exists():
        return {}
    document: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        kind: {name: Cell(**cell) for name, cell in row.items()}
        for kind, row in document["architectures"].items()
    }


def write(rows: Mapping[str, Row], transformers: str) -> None:
    """Keep rows; equal cells are written as they are, so that a change shows in a diff."""
    document = {
        "transformers": transformers,
        "architectures": {
            kind: {name: vars(row[name]) for name in (UNMADE, *COLUMNS) if name in row}
            for kind, row in sorted(rows.items())
        },
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def version() -> str:
    """The version of transformers that was measured."""
    return str(json.loads(FILE.read_text(encoding="utf-8"))["transformers"])

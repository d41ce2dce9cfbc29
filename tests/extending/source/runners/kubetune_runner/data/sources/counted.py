"""Numbered rows: written to a file, as they would be read from one."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from kubetune.api.kinds.dataset.sources import CountedSource
from kubetune_runner.data.items import Source, SourceFile
from kubetune_runner.data.sources import Reader
from kubetune_runner.data.splits import TRAIN


@contextmanager
def opened(source: CountedSource, _reader: Reader) -> Generator[Source]:
    """A file of rows, on disk for as long as the context lasts."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = ({"prompt": f"{n} + 1 =", "completion": str(n + 1)} for n in range(source.count))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        yield Source({TRAIN: [SourceFile(path.name, path, "jsonl")]})

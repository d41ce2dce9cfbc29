"""A table of encoded rows in a file: written batch by batch, then mapped, never held as a whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from kubetune_runner.data.stored import naming_a_full_disk
from kubetune_runner.tokenized.encoders import Encoder

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

T = TypeVar("T")
WHAT = "the token ids of its rows"


def as_batch(encoder: Encoder, rows: Sequence[Any], *, asked: bool = False) -> pa.RecordBatch:
    """Encoded rows as a batch of the table; ``asked`` as in ``Encoder.columns``."""
    import pyarrow as pa

    return pa.RecordBatch.from_pydict(encoder.columns(rows, asked=asked))


def largest_of(batch: pa.RecordBatch) -> int:
    """The largest token id of a batch, 0 where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    compute: Any = pc
    columns = [column for column in batch.columns if pa.types.is_list(column.type)]
    return max((compute.max(column.values).as_py() or 0 for column in columns), default=0)


class TableWriter:
    """Writes the table of a split, which ``datasets`` can read too."""

    def __init__(self, path: Path, encoder: Encoder, *, asked: bool) -> None:
        import pyarrow as pa

        self._folder = path.parent
        with naming_a_full_disk(WHAT, self._folder):
            self._file: Any = path.open("wb")
            schema = as_batch(encoder, [], asked=asked).schema
            self._writer: Any = pa.ipc.new_stream(pa.PythonFile(self._file, "w"), schema)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch. Raises RunError DiskFull."""
        if not batch.num_rows:
            return
        with naming_a_full_disk(WHAT, self._folder):
            self._writer.write_batch(batch)

    def close(self) -> None:
        """All is written, and on the disk. Raises RunError DiskFull."""
        with naming_a_full_disk(WHAT, self._folder):
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abandon(self) -> None:
        """Leave it half-written."""
        with contextlib.suppress(Exception):
            self._file.close()


class TokenTable(Sequence[T], Generic[T]):
    """The rows of a table, each made when it is asked for.

    ``keep`` lives for as long as the table: it may be a folder that goes with it.
    """

    def __init__(self, path: Path, encoder: Encoder, keep: object = None) -> None:
        import pyarrow as pa

        self.path = path
        self._encoder, self._keep = encoder, keep
        with pa.memory_map(str(path)) as mapped:
            self.table: pa.Table = pa.ipc.open_stream(mapped).read_all()

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self[each] for each in range(len(self))[at]]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        (values,) = self.table.slice(at % len(self), 1).to_pylist()
        return self._encoder.row(values)

    def __iter__(self) -> Iterator[T]:
        for batch in self.table.to_batches():
            for values in batch.to_pylist():
                yield self._encoder.row(values)

    def lengths(self, column: str) -> np.ndarray[Any, Any]:
        """How many token ids each row has in a column; 0 of null."""
        import pyarrow.compute as pc

        compute: Any = pc
        return compute.fill_null(compute.list_value_length(self.table[column]), 0).to_numpy()

    def dataset(self, columns: Sequence[str]) -> Dataset:
        """The same file as ``datasets`` reads it, with some of its columns."""
        from datasets import Dataset

        return Dataset.from_file(str(self.path)).select_columns(list(columns))


class Ordered(Sequence[T], Generic[T]):
    """Rows of a sequence in another order."""

    def __init__(self, rows: Sequence[T], order: Sequence[int]) -> None:
        self._rows, self._order = rows, order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self._rows[each] for each in self._order[at]]
        return self._rows[self._order[at]]


def by_length(rows: Sequence[Any]) -> Sequence[Any]:
    """Encoded texts, the shortest first, as they were where they are equally long."""
    if isinstance(rows, TokenTable):
        return Ordered(rows, rows.lengths("input_ids").argsort(kind="stable").tolist())
    return sorted(rows, key=lambda row: len(row.input_ids))


def as_dataset(rows: Sequence[Any], encoder: Encoder, columns: Sequence[str]) -> Dataset:
    """Encoded rows as the table that a trainer reads."""
    import datasets
    import pyarrow as pa
    from datasets.table import InMemoryTable

    # What is made of it belongs to this run; the folder of the table may be read by others.
    datasets.disable_caching()
    if isinstance(rows, TokenTable):
        return rows.dataset(columns)
    table = pa.Table.from_batches([as_batch(encoder, rows)]).select(list(columns))
    return datasets.Dataset(InMemoryTable(table))

"""Rows on disk, in Arrow's format: so that memory doesn't grow with them.

A row is its JSON text, since files of json and csv have rows with other columns, and other types,
than the row before. The file has no name: whatever ends the run, nothing of it stays on the disk.
"""

from __future__ import annotations

import errno
import json
import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast, overload

from kubetune.api.run.plan import WORK_DIRECTORY, in_container

from kubetune_runner.data.items import Row
from kubetune_runner.data.verdicts import Place
from kubetune_runner.errors import RunError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000
BATCH_BYTES = 1024 * 1024
"""A batch ends with the row that reaches one of the two."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def naming_a_full_disk(what: str, folder: object) -> Generator[None]:
    """Have a disk that is full say so. Raises RunError DiskFull (retryable)."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise full(what, folder) from error


def full(what: str, folder: object) -> RunError:
    """What is said of a disk that is full."""
    return RunError(
        "DiskFull",
        f"the disk of {folder} is full, so {what} can't be written: rows take their own"
        " size there, and up to six times as token ids. Give the run more disk"
        " (ephemeralStorage or modelCache of the ComputeTarget), or set a smaller data.fraction",
        retryable=True,
    )


class StoredRows:
    """All rows of a dataset in the order in which they were read; written once, then read."""

    def __init__(self) -> None:
        work = in_container(WORK_DIRECTORY)
        self._folder = str(work) if work.is_dir() else tempfile.gettempdir()
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        self._writer: Any = None
        self._reader: Any = None
        self._waiting: list[str] = []
        self._bytes = 0
        self.size = 0
        """Bytes of all rows."""
        self.starts = array("Q")
        """Of each batch the place of its first row."""
        self.count = 0

    @property
    def descriptor(self) -> int:
        """The open file, for processes that read it too."""
        return self._file.fileno()

    def add(self, row: Row) -> None:
        """Write a row. Raises RunError DiskFull."""
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        self._waiting.append(text)
        self._bytes += len(text)
        if len(self._waiting) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._flush()

    def finish(self) -> None:
        """All rows are there."""
        self._flush()
        with naming_a_full_disk("the rows", self._folder):
            self._open_writer().close()
            self._file.flush()
        self._writer = None

    def batch(self, number: int) -> list[Row]:
        """The rows of a batch."""
        if self._reader is None:
            self._reader = open_batches(self.descriptor)
        return rows_of(self._reader.get_batch(number))

    def _open_writer(self) -> Any:
        import pyarrow as pa

        if self._writer is None:
            self._writer = pa.ipc.new_file(
                pa.PythonFile(self._file, "w"), pa.schema([("row", pa.string())])
            )
        return self._writer

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._waiting:
            return
        batch = pa.record_batch({"row": pa.array(self._waiting, pa.string())})
        with naming_a_full_disk("the rows", self._folder):
            self._open_writer().write_batch(batch)
        self.starts.append(self.count)
        self.count += len(self._waiting)
        self.size += self._bytes
        self._waiting, self._bytes = [], 0


def open_batches(descriptor: int) -> Any:
    """A reader of a file of ``StoredRows``, with a position of its own.

    It reads and doesn't map: what was read of a mapped file counts as memory for as long as there
    is room.
    """
    import pyarrow as pa

    return pa.ipc.open_file(pa.OSFile(f"/proc/self/fd/{descriptor}", "rb"))


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch of the file."""
    return [json.loads(text) for text in batch.column(0).to_pylist()]


class Rows(Sequence[Row]):
    """Some of the stored rows, in their order, read when they are asked for."""

    def __init__(self, stored: StoredRows, numbers: Sequence[int], place: Any = None) -> None:
        self.stored = stored
        self.numbers = numbers
        """Of each row the place among all stored ones, ascending."""
        self._place = place
        self._batch: tuple[int, list[Row]] = (-1, [])

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Row | Rows:
        if isinstance(at, slice):
            return self.pick(range(len(self))[at])
        return self._row(self.numbers[at])

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self.numbers)

    def pick(self, which: Sequence[int]) -> Rows:
        """Those with these places among the rows."""
        numbers = array("Q", (self.numbers[at] for at in which))
        return Rows(self.stored, numbers, self._place)

    def place(self, at: int) -> Place:
        """Where a row stands in its source."""
        return self._place(self.numbers[at])

    def placed(self) -> Iterator[tuple[Row, Place]]:
        """The rows, and where they stand."""
        return ((self._row(number), self._place(number)) for number in self.numbers)

    def _row(self, number: int) -> Row:
        batch = bisect_right(self.stored.starts, number) - 1
        if self._batch[0] != batch:
            self._batch = (batch, self.stored.batch(batch))
        return self._batch[1][number - self.stored.starts[batch]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        theirs = cast("Sequence[Any]", other)
        return len(self) == len(theirs) and all(a == b for a, b in zip(self, theirs, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

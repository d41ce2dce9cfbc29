"""Metrics of the user: a Python function, called for each row in a process of its own.

Whatever the function does (raise, hang, exit, return no number) becomes an error in the table.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from kubetune.api.bounded import NOTE, json_object

from kubetune_runner import surroundings
from kubetune_runner.evaluate import table, user_metric_child
from kubetune_runner.evaluate.metrics import MeasuredRow, MetricError
from kubetune_runner.evaluate.table import Column

START_SECONDS = 60.0
"""For the start of the process and the imports of the function's text, at least."""
MAX_REPLY_BYTES = 65536


def measure(
    name: str, source: str, rows: Sequence[MeasuredRow], seed: int, *, timeout_seconds: float
) -> Column:
    """The mean of ``metric(prediction, reference, row)`` over the rows, or what went wrong.

    ``timeout_seconds`` is for one row.
    """
    try:
        return table.of_values(rows, values(source, rows, timeout_seconds), seed)
    except MetricError as error:
        return table.failed(name, str(error))


def values(source: str, rows: Sequence[MeasuredRow], timeout_seconds: float) -> list[float]:
    """What the function returns for each row. Raises MetricError naming the row."""
    for row in rows:
        if row.answer is None:
            raise MetricError(f"row {row.number} lacks a generated answer, it is plain text")
    with tempfile.TemporaryDirectory(prefix="metric-") as name:
        folder = Path(name)
        (folder / user_metric_child.FILE).write_text(source, encoding="utf-8")
        _write(folder / "rows.jsonl", rows)
        with _started(folder) as process:
            replies = _Replies(process)
            replies.next(max(START_SECONDS, timeout_seconds), "its text")
            return [replies.next(timeout_seconds, f"row {row.number}")["value"] for row in rows]


def _write(path: Path, rows: Sequence[MeasuredRow]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            arguments = {
                "prediction": row.answer,
                "reference": row.reference,
                "row": row.columns,
            }
            stream.write(json.dumps(arguments) + "\n")


@contextlib.contextmanager
def _started(folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """The process, which is killed at the end with all that it started."""
    # -P: the folder of the script isn't a place to import from.
    process = subprocess.Popen(
        [sys.executable, "-P", user_metric_child.__file__, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=surroundings.environment(os.environ),
        start_new_session=True,
    )
    try:
        with surroundings.kept_out():
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout:
            process.stdout.close()


class _Replies:
    """The lines of the process, each awaited for a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._buffer = bytearray()
        stream: Any = process.stdout
        self._file: int = stream.fileno()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._file, selectors.EVENT_READ)

    def next(self, seconds: float, place: str) -> dict[str, Any]:
        """The next line. Raises MetricError when it is an error or doesn't come."""
        end = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, end - time.monotonic())):
                raise MetricError(f"{place}: it took longer than {seconds:g} seconds")
            data = os.read(self._file, MAX_REPLY_BYTES)
            self._buffer += data
            if not data or len(self._buffer) > MAX_REPLY_BYTES:
                raise MetricError(f"{place}: its process ended{self._how()}")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        reply: dict[str, Any] = json_object(line, NOTE)
        if "error" in reply:
            raise MetricError(f"{place}: {reply['error']}")
        return reply

    def _how(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return ""
        return f" by signal {-code}" if code < 0 else f" with exit code {code}"

"""What a run prints: kept while it runs, stored in MLflow at its end.

Kept are the first and the last part, so that a run of weeks costs no memory. Credentials are hidden
in what is kept and in what is printed. What a native library writes past Python is in the pod's log
alone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from kubetune.api.kinds.running import MAX_LOG_BYTES
from kubetune.api.run.outcome import MAX_LOG_LINES, last_lines
from kubetune.api.run.redact import redactor

HEAD_BYTES = 256 * 1024
TAIL_BYTES = 768 * 1024
MAX_LINE = 8192
"""Characters of a line that are kept."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SEARCHED_LINES = 200
"""A secret of several lines, such as a key, is found in this many."""


class RunLog:
    """The lines of a run, from logging, ``sys.stdout`` and ``sys.stderr``."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._redact: Callable[[str], str] = redactor(environment)
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._head_bytes = self._tail_bytes = 0
        self._left_out = self._left_out_bytes = 0
        self._lock = threading.Lock()

    def learn_secrets(self, environment: Mapping[str, str] = os.environ) -> None:
        """Hide what has come into the environment since."""
        self._redact = redactor(environment)

    def redact(self, text: str) -> str:
        """The text without credentials."""
        return self._redact(text)

    def add(self, line: str) -> None:
        """Keep one line, given without its end."""
        # Progress bars write over themselves.
        text = self._redact(line.rstrip("\r\n").rpartition("\r")[2])[:MAX_LINE]
        size = len(text.encode(errors="replace")) + 1
        with self._lock:
            if not self._tail and self._head_bytes + size <= HEAD_BYTES:
                self._head.append(text)
                self._head_bytes += size
                return
            self._tail.append(text)
            self._tail_bytes += size
            while self._tail_bytes > TAIL_BYTES:
                gone = len(self._tail.popleft().encode(errors="replace")) + 1
                self._tail_bytes -= gone
                self._left_out += 1
                self._left_out_bytes += gone

    def text(self) -> str:
        """The whole log, or its beginning and end."""
        with self._lock:
            lines = list(self._head)
            if self._left_out:
                size = f"{self._left_out_bytes / 2**20:.1f} MiB"
                lines.append(f"[kubetune: {self._left_out} lines ({size}) are left out here]")
            lines += self._tail
        return self._redact("".join(f"{line}\n" for line in lines))

    def last(self, lines: int = MAX_LOG_LINES, limit: int = MAX_LOG_BYTES) -> str:
        """The last lines, of at most so many bytes."""
        with self._lock:
            recent = [*self._head, *self._tail][-_SEARCHED_LINES:]
        return last_lines(self._redact("\n".join(recent)), lines, limit)

    @contextmanager
    def capture(self) -> Generator[None]:
        """Keep what is logged and printed within the block."""
        before = sys.stdout, sys.stderr
        records = _Records(self)
        root = logging.getLogger()
        # To the streams as they are; the records get here by a handler of their own, since a
        # notebook's kernel may have set up the root logger before.
        logging.basicConfig(level=logging.INFO, handlers=[_printing(self)])
        root.addHandler(records)
        tees = [_Tee(stream, self) for stream in before]
        sys.stdout, sys.stderr = tees
        try:
            yield
        finally:
            for tee in tees:
                tee.finish()
            sys.stdout, sys.stderr = before
            root.removeHandler(records)


def _printing(kept: RunLog) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacted(kept))
    return handler


class _Redacted(logging.Formatter):
    """Writes records without credentials."""

    def __init__(self, kept: RunLog) -> None:
        super().__init__(FORMAT)
        self._kept = kept

    def format(self, record: logging.LogRecord) -> str:
        return self._kept.redact(super().format(record))


class _Records(logging.Handler):
    """Hands records to the log."""

    def __init__(self, kept: RunLog) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter(FORMAT))
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        try:
            for line in self.format(record).split("\n"):
                self._kept.add(line)
        except Exception:
            self.handleError(record)


class _Tee:
    """A text stream whose lines are kept, too."""

    def __init__(self, stream: Any, kept: RunLog) -> None:
        self._stream, self._kept = stream, kept
        self._open = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Write through."""
        with self._lock:
            *lines, self._open = (self._open + text).split("\n")
            # A bar that never ends its line must not grow for ever.
            self._open = self._open[-MAX_LINE:]
        for line in lines:
            self._kept.add(line)
        self._stream.write(self._kept.redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write through."""
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Keep a last line that has no end."""
        if self._open:
            self._kept.add(self._open)
            self._open = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def quieten() -> None:
    """Keep the libraries' progress bars and deprecations out of the run's log."""
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|trl)\\..*")
    # MLflow's advice for authors of predict functions and examples.
    warnings.filterwarnings("ignore", message=".*(Add type hints|An input example was not)")

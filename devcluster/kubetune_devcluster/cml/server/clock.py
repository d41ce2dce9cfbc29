"""The server's time: the machine's, or one that a test moves by hand."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Seconds since 1970."""

    def now(self) -> float:
        """The time now."""
        ...


class RealClock:
    """The machine's time."""

    def now(self) -> float:
        return time.time()


class ManualClock:
    """Time that stands still until ``advance``; starts at the machine's."""

    def __init__(self, start: float | None = None) -> None:
        self._now = time.time() if start is None else start
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds}")
        with self._lock:
            self._now += seconds


def text(moment: float | None) -> str | None:
    """A moment as the API writes it."""
    if moment is None:
        return None
    written = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return written.replace("+00:00", "Z")


def moment(written: str) -> float:
    """The moment that ``text`` wrote."""
    return datetime.fromisoformat(written.replace("Z", "+00:00")).timestamp()

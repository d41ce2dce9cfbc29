"""What SIGTERM does to a training run: save, then stop.

Outside of training the signal raises Interrupted at once; while training it only sets a flag,
which the progress callback reads after each step so that a checkpoint is written first.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The run was told to stop. Not an Exception, so that no library swallows it."""


class StopSignal:
    """Whether the run was told to stop."""

    def __init__(self) -> None:
        self.received = False
        self._deferred = False

    def install(self) -> None:
        """Take over SIGTERM; only in the main thread."""
        signal.signal(signal.SIGTERM, self._handle)

    def release(self) -> None:
        """Ignore further signals: the run is writing its last words."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    @contextmanager
    def deferred(self) -> Generator[None]:
        """Within the block a signal only sets ``received``; after it Interrupted is raised."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received:
            raise Interrupted

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        first, self.received = not self.received, True
        # A second signal must not interrupt the clean-up after the first.
        if first and not self._deferred:
            raise Interrupted

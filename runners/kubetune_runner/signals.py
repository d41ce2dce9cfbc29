"""What SIGTERM does to a training run: save, then stop.

Outside of training the signal raises Interrupted at once; while training it only sets a flag,
which the progress callback reads after each step so that a checkpoint is written first.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)


class Interrupted(BaseException):
    """The run was told to stop. Not an Exception, so that no library swallows it."""


class StopSignal:
    """Whether the run was told to stop."""

    def __init__(self) -> None:
        self.received = False
        self._deferred = False
        self._installed = False
        self._before: Any = None

    def install(self) -> None:
        """Take over SIGTERM, where this is the main thread; elsewhere the signal just ends it."""
        try:
            self._before = signal.signal(signal.SIGTERM, self._handle)
        except ValueError:
            log.warning("not in the main thread: SIGTERM will end the run without a checkpoint")
        else:
            self._installed = True

    def release(self) -> None:
        """Ignore further signals: the run is writing its final report."""
        if self._installed:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def restore(self) -> None:
        """Leave SIGTERM to whoever had it: a notebook's kernel lives on after the run."""
        if self._installed:
            # None is a handler that wasn't set from Python.
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

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

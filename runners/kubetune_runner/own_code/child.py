"""The user's code as a process: its output, its end, and how it is stopped."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from kubetune_runner.own_code import launch
from kubetune_runner.signals import StopSignal

GRACE_SECONDS = 100.0
"""Between SIGTERM and SIGKILL; a pod has 120 seconds, and the run's own end takes some."""
LOOK_SECONDS = 0.2
DRAIN_SECONDS = 5.0
"""For output that is still on its way when the process has ended."""
MAX_LINE_BYTES = 8192
KEPT_LINES = 40

log = logging.getLogger(__name__)


class Child:
    """A process in a group of its own, started at once."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        redact: Callable[[str], str],
    ) -> None:
        self.last_errors: deque[str] = deque(maxlen=KEPT_LINES)
        """The newest lines of its standard error, without credentials."""
        self._redact = redact
        self._process = subprocess.Popen(
            [sys.executable, "-I", launch.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
        )
        # Through this process: a notebook's kernel shows nothing else.
        self._pumps = [
            threading.Thread(target=self._pump, args=given, daemon=True)
            for given in (
                (self._process.stdout, sys.stdout, None),
                (self._process.stderr, sys.stderr, self.last_errors),
            )
        ]
        for pump in self._pumps:
            pump.start()

    def wait(
        self, stop: StopSignal, grace_seconds: float, check: Callable[[], object] = lambda: None
    ) -> int:
        """Its exit code, negative for a signal. SIGTERM is passed on, with a grace period.

        Raises Interrupted after a signal, when the process is gone, and what ``check`` raises,
        which is called now and then.
        """
        try:
            with stop.deferred():
                return self._wait(stop, grace_seconds, check)
        finally:
            self._end()

    def _wait(self, stop: StopSignal, grace_seconds: float, check: Callable[[], object]) -> int:
        deadline: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(LOOK_SECONDS)
            if not stop.received:
                check()
                continue
            if deadline is None:
                log.info("stopping: the code has %.0f seconds to save", grace_seconds)
                deadline = time.monotonic() + grace_seconds
                self._signal(signal.SIGTERM)
            elif time.monotonic() >= deadline:
                log.warning("the code didn't stop within %.0f seconds: it is killed", grace_seconds)
                self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _end(self) -> None:
        """Kill what the process has left running, and take in the rest of its output."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pump in self._pumps:
            pump.join(DRAIN_SECONDS)

    def _pump(self, source: IO[bytes], target: IO[str], kept: deque[str] | None) -> None:
        while line := source.readline(MAX_LINE_BYTES):
            text = self._redact(line.decode(errors="replace"))
            # Progress bars write over themselves.
            if kept is not None and (last := text.rstrip().rpartition("\r")[2]):
                kept.append(last)
            with contextlib.suppress(OSError, ValueError):
                target.write(text)
                target.flush()

"""Processes that belong together: their output, their ends, and how they are stopped."""

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from kubetune_runner.processes import launch
from kubetune_runner.signals import StopSignal

GRACE_SECONDS = 100.0
"""Between SIGTERM and SIGKILL; a pod has 120 seconds, and the run's own end takes some."""
PATIENCE_SECONDS = 30.0
"""For the others to end by themselves when one has failed, and to say why. What waits for a process
that is gone, as an exchange between GPUs may, would wait for half an hour."""
LOOK_SECONDS = 0.2
DRAIN_SECONDS = 5.0
"""For output that is still on its way when a process has ended."""
MAX_LINE_BYTES = 8192
KEPT_LINES = 40

log = logging.getLogger(__name__)


def threads(processes: int) -> dict[str, str]:
    """How many threads each may have where nobody says: its share of the CPUs."""
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes))}


@dataclass(frozen=True)
class End:
    """How a process ended."""

    number: int
    """Which one of the group, from 0."""
    code: int
    """Its exit code, negative for a signal."""
    by_us: bool = False
    """It was killed since it didn't end by itself."""

    @property
    def failed(self) -> bool:
        """Whether it ended by itself, and badly."""
        return self.code != 0 and not self.by_us


class Group:
    """Processes with sessions of their own, started at once.

    What the first one prints is printed here. Of the others it is their standard error, each line
    with its process before it.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environments: Sequence[Mapping[str, str]],
        redact: Callable[[str], str],
        name: Callable[[int], str] = "process {}".format,
    ) -> None:
        self._redact, self._name = redact, name
        self._processes: list[_Process] = []
        try:
            for number, environment in enumerate(environments):
                self._processes.append(_Process(self, number, command, folder, environment))
        except OSError:
            self._end()
            raise

    @property
    def last_errors(self) -> list[deque[str]]:
        """The newest lines of each standard error, without credentials."""
        return [process.last_errors for process in self._processes]

    def wait(
        self, stop: StopSignal, grace_seconds: float, check: Callable[[], object] = lambda: None
    ) -> list[End]:
        """How they ended, in that order. SIGTERM is passed on, with a grace period.

        When one fails, the others have PATIENCE_SECONDS. Raises Interrupted after a signal, when
        all are gone, and what ``check`` raises, which is called now and then.
        """
        try:
            with stop.deferred():
                self._wait(stop, grace_seconds, check)
        finally:
            self._end()
        return self.ends

    @property
    def ends(self) -> list[End]:
        """How those ended that have, in that order."""
        ended = [process for process in self._processes if process.ended_at is not None]
        ended.sort(key=lambda process: process.ended_at or 0.0)
        return [process.end for process in ended]

    def _wait(self, stop: StopSignal, grace_seconds: float, check: Callable[[], object]) -> None:
        deadline: float | None = None
        while not self._over(LOOK_SECONDS):
            now = time.monotonic()
            if not stop.received:
                check()
                failed_at = self._first_failure()
                if failed_at is not None and now >= failed_at + PATIENCE_SECONDS:
                    self._kill(
                        f"is still there {PATIENCE_SECONDS:.0f} seconds after another failed"
                    )
            elif deadline is None:
                log.info("stopping: %.0f seconds to save", grace_seconds)
                deadline = now + grace_seconds
                self._signal(signal.SIGTERM)
            elif now >= deadline:
                self._kill(f"didn't stop within {grace_seconds:.0f} seconds")

    def _over(self, seconds: float) -> bool:
        """Whether all have ended, at the latest after so many seconds."""
        until = time.monotonic() + seconds
        for process in self._processes:
            process.waiter.join(max(0.0, until - time.monotonic()))
        return all(not process.waiter.is_alive() for process in self._processes)

    def _first_failure(self) -> float | None:
        """When the first one failed."""
        times = [p.ended_at for p in self._processes if p.ended_at is not None and p.end.failed]
        return min(times, default=None)

    def _kill(self, why: str) -> None:
        left = [p for p in self._processes if p.ended_at is None and not p.killed]
        for process in left:
            log.warning("%s %s: it is killed", self._name(process.number), why)
            process.killed = True
            process.signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for process in self._processes:
            process.signal(number)

    def _end(self) -> None:
        """Kill what the processes have left running, and take in the rest of their output."""
        for process in self._processes:
            process.killed = process.killed or process.ended_at is None
        self._signal(signal.SIGKILL)
        for process in self._processes:
            process.finish()


class _Process:
    """One of a group."""

    def __init__(
        self,
        group: Group,
        number: int,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.number = number
        self.killed = False
        self.ended_at: float | None = None
        self.last_errors: deque[str] = deque(maxlen=KEPT_LINES)
        self._redact = group._redact
        self._process = subprocess.Popen(
            [sys.executable, "-I", launch.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if number == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=dict(environment),
            start_new_session=True,
        )
        prefix = f"[{group._name(number)}] " if number else ""
        # Through this process: a notebook's kernel shows nothing else.
        pumps = (
            (self._process.stderr, sys.stderr, self.last_errors),
            (self._process.stdout, sys.stdout, None),
        )
        self._threads = [
            threading.Thread(target=self._pump, args=(*given, prefix), daemon=True)
            for given in pumps
            if given[0] is not None
        ]
        # Of its own, so that it is known who ended first.
        self.waiter = threading.Thread(target=self._await, daemon=True)
        for thread in (*self._threads, self.waiter):
            thread.start()

    @property
    def end(self) -> End:
        """How it ended, once it has."""
        return End(self.number, self._process.returncode, self.killed)

    def signal(self, number: int) -> None:
        """Send a signal to it and to what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def finish(self) -> None:
        """Wait for its end and the rest of its output."""
        self.waiter.join()
        for thread in self._threads:
            thread.join(DRAIN_SECONDS)

    def _await(self) -> None:
        self._process.wait()
        self.ended_at = time.monotonic()

    def _pump(
        self, source: IO[bytes], target: IO[str], kept: deque[str] | None, prefix: str
    ) -> None:
        while line := source.readline(MAX_LINE_BYTES):
            text = self._redact(line.decode(errors="replace"))
            # Progress bars write over themselves.
            if kept is not None and (last := text.rstrip().rpartition("\r")[2]):
                kept.append(last)
            with contextlib.suppress(OSError, ValueError):
                target.write(prefix + text)
                target.flush()

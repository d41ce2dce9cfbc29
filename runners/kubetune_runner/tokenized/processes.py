"""Processes that tokenize: new ones, without torch, each a tenth of the size of a training.

Each is handed a unit at a time; what they make comes back in the units' order, so the table is the
same however many there are.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from kubetune.api import JsonObject

from kubetune_runner.errors import RunError
from kubetune_runner.tokenized.units import Part, Unit

log = logging.getLogger(__name__)

MODULE = "kubetune_runner.tokenized.child"
MOST = 16
"""More of them wait for the one that reads and writes."""
AHEAD = 2
"""Units that a process has: while it makes one, the next is there."""
MEMORY = 300 * 1024 * 1024
"""What one takes, at most a third of the run's memory together."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Work:
    """What a process is told once."""

    plan: JsonObject
    tokenizer: str
    """Its folder."""
    columns: list[str]
    rows: int
    """Descriptor of the stored rows."""


@dataclass(frozen=True)
class Failed:
    """A unit that ended with a RunError."""

    reason: str
    message: str
    retryable: bool
    summary: dict[str, Any]

    @staticmethod
    def of(error: RunError) -> Failed:
        """What an error says."""
        return Failed(error.reason, error.message, error.retryable, error.summary)

    def error(self) -> RunError:
        """The error again."""
        return RunError(self.reason, self.message, retryable=self.retryable, summary=self.summary)


class PlainWayNeededError(Exception):
    """A tokenizer that can't be loaded without torch."""


def wanted() -> int:
    """How many processes the run's CPUs and memory are enough for."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cpus = len(os.sched_getaffinity(0))
    # As the operator sets it: the CPUs of the run.
    cpus = min(cpus, int(given)) if given.isdigit() and int(given) else min(cpus, _quota())
    return max(1, min(MOST, cpus, _memory() // 3 // MEMORY))


def _quota() -> int:
    quota, _, period = _text(_QUOTA).partition(" ")
    if not quota.isdigit() or not period.strip().isdigit():
        return MOST
    return max(1, -(-int(quota) // int(period)))


def _memory() -> int:
    limit = _text(_LIMIT).strip()
    return int(limit) if limit.isdigit() else sys.maxsize


def _text(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as stream:
            return stream.read(100)
    except OSError:
        return ""


class Processes(AbstractContextManager["Processes"]):
    """``count`` processes, which end with the context."""

    def __init__(self, count: int, work: Work) -> None:
        self._running: list[tuple[subprocess.Popen[bytes], Connection]] = []
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        try:
            for _ in range(count):
                ours, theirs = Pipe()
                with theirs:
                    process = subprocess.Popen(
                        [sys.executable, "-m", MODULE, str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        env=environment,
                        pass_fds=[theirs.fileno(), work.rows],
                    )
                self._running.append((process, ours))
                ours.send(work)
        except BaseException:
            self.__exit__()
            raise

    def made(self, units: Iterator[Unit]) -> Iterator[tuple[Unit, dict[str, Part]]]:
        """What they make of the units, in their order.

        Raises RunError as encoders do, and PlainWayNeededError before the first one.
        """
        waiting: deque[tuple[Unit, int]] = deque()
        for number, unit in enumerate(units):
            at = number % len(self._running)
            if number >= AHEAD * len(self._running):
                yield self._receive(waiting)
            self._send(at, unit)
            waiting.append((unit, at))
        while waiting:
            yield self._receive(waiting)

    def _send(self, at: int, unit: Unit) -> None:
        try:
            self._running[at][1].send(unit)
        except OSError as error:
            raise self._ended(at) from error

    def _receive(self, waiting: deque[tuple[Unit, int]]) -> tuple[Unit, dict[str, Part]]:
        unit, at = waiting.popleft()
        try:
            answer: Any = self._running[at][1].recv()
        except (EOFError, OSError) as error:
            raise self._ended(at) from error
        if isinstance(answer, Failed):
            raise answer.error()
        if answer is None:
            raise PlainWayNeededError
        return unit, answer

    def _ended(self, at: int) -> RuntimeError:
        code = self._running[at][0].wait(60)
        return RuntimeError(f"a process that tokenizes rows ended with exit code {code}")

    def __exit__(self, *_: object) -> None:
        for process, connection in self._running:
            connection.close()
            process.kill()
        for process, _connection in self._running:
            process.wait()

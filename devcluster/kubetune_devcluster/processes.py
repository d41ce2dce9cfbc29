"""Detached processes that a later command can find, watch and stop.

Each process has a record on disk: pid and start time, so that a pid that the system has given to
somebody else is never taken for ours. A process leads its own session; what it forks in that
session counts as part of it.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Processes started by this interpreter must be waited for by it, or they stay as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Process:
    """One named process of a cluster: its record in ``folder`` and its log in ``logs``."""

    name: str
    folder: Path
    logs: Path

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return self.logs / f"{self.name}.log"

    def start(
        self, command: Sequence[str | Path], environment: Mapping[str, str], cwd: Path
    ) -> None:
        """Start ``command`` in its own session; the log of the run before is kept once."""
        if self.log.exists():
            self.log.replace(self.logs / f"{self.name}.previous.log")
        with self.log.open("wb") as log:
            child = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _children[child.pid] = child
        temporary = self.record.with_suffix(".new")
        temporary.write_text(json.dumps({"pid": child.pid, "started": _start_mark(child.pid)}))
        temporary.replace(self.record)

    def pid(self) -> int | None:
        """The pid if the process lives, else None."""
        try:
            record = json.loads(self.record.read_text())
        except (FileNotFoundError, ValueError):
            return None
        pid = record["pid"]
        if child := _children.get(pid):
            child.poll()
        return pid if _start_mark(pid) == record["started"] else None

    def crashed(self) -> bool:
        """True when it was started and not stopped, and is gone all the same."""
        return self.record.exists() and self.pid() is None

    def members(self) -> list[int]:
        """Pids of the process and all that it forked in its session; none when it is gone."""
        pid = self.pid()
        if pid is None:
            return []
        return [other for other in psutil.pids() if _session(other) == pid]

    def rss_bytes(self) -> int:
        """Resident memory of all members, in bytes; pages that they share count for each."""
        return sum(_rss(pid) for pid in self.members())

    def stop(
        self, number: signal.Signals, grace: float, leader_only: bool = False
    ) -> Callable[[], None]:
        """Ask the process to end with ``number``; the returned function waits until it is gone.

        What is left after ``grace`` seconds is killed. ``leader_only`` is for a process that ends
        its children itself; other members of the session get the signal too.
        """
        leader = self.pid()
        marks = {pid: mark for pid in self.members() if (mark := _start_mark(pid))}
        deadline = time.monotonic() + grace

        def send(number: signal.Signals, pids: Iterable[int]) -> None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

        def alive() -> list[int]:
            self.pid()  # reaps a child of this interpreter
            return [pid for pid, mark in marks.items() if _start_mark(pid) == mark]

        def finish() -> None:
            if not wait_until(lambda: not alive(), deadline - time.monotonic()):
                send(signal.SIGKILL, alive())
                wait_until(lambda: not alive(), 10)
            self.forget()

        send(number, [leader] if leader_only and leader else marks)
        return finish

    def forget(self) -> None:
        """Drop the record of a process that is gone."""
        self.record.unlink(missing_ok=True)

    def log_tail(self, lines: int = 10) -> str:
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def wait_until(done: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Poll ``done()`` until it is true; False when ``seconds`` passed before."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def any_with_argument(argument: str) -> bool:
    """True when some process of this user was started with exactly this argument."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real == os.getuid() and argument in process.cmdline():
                return True
    return False


def _start_mark(pid: int) -> str | None:
    """What tells this process from any other that has or had its pid; None when it is gone.

    On Linux clock ticks since boot plus the boot's id: psutil's create_time moves when the wall
    clock is set, and a cluster that no longer knows its processes would leave them behind.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self/stat").exists() else _start_mark_portable(pid)
    if fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{fields[19]}"


def _start_mark_portable(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _rss(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.NoSuchProcess:
        return 0

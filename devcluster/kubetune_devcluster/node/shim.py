"""The zygote and its shims: the part of the process node that outlives the node.

The node forks the zygote before it imports anything heavy, and the zygote forks one shim for each
container, so a hundred shims share one small interpreter. A shim starts the container's process,
stamps its log lines, waits for it and writes `exit.json`. Node and zygote may die at any moment:
the shim holds a lock on the container's folder for life, by which the next node finds it.

A container's folder: `spec.json` (what to run; holds Secret values), `lock`, `state.json` (the
shim's pid and the start time), `log` and `log.1`, `termination`, `exit.json`, `root`.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from . import mounts

LINE_LIMIT = 16 * 1024
"""Longest text of one log line in bytes; the rest follows in lines marked partial, as CRI does."""
LOG_LIMIT = 64 * 1024 * 1024
"""Size in bytes at which `log` becomes `log.1`; the older `log.1` is dropped."""

STOP = signal.SIGTERM
"""Sent to a shim: pass SIGTERM on to the container's processes."""
KILL = signal.SIGUSR1
"""Sent to a shim: kill the container's processes."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def start_zygote(shim_log: Path) -> socket.socket:
    """Fork the zygote and return the socket it listens on.

    Write a container folder's path and a newline to start its shim; the same line comes back when
    the container's program has been executed or has failed to. The zygote ends when the socket is
    closed. `shim_log` receives what goes wrong inside shims.
    """
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return ours
    ours.close()
    try:
        _serve(theirs, shim_log)
    finally:
        os._exit(0)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that readers see whole or not at all, readable by its owner only."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
    temporary.rename(path)


def timestamp() -> str:
    """The time now in RFC 3339 with nanoseconds, always 30 characters, so they compare."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"


def _serve(requests: socket.socket, shim_log: Path) -> None:
    # A session of its own keeps the terminal's Ctrl-C away from zygote, shims and containers.
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(shim_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended shims vanish without being waited for
    for line in requests.makefile("rb"):
        if os.fork() == 0:
            try:
                _Shim(Path(line.decode().rstrip("\n"))).run(requests)
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)


class _Shim:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid = 0
        self.status: int | None = None
        """The wait status of the container's first process, once that has ended."""
        # The lock lives as long as this process: descriptors are closed on exec, so the
        # container's own processes never hold it.
        self.lock = (folder / "lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)

    def run(self, answer: socket.socket) -> None:
        spec = json.loads((self.folder / "spec.json").read_text())
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        wake, wake_write = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(STOP, lambda *_: self._signal(signal.SIGTERM))
        signal.signal(KILL, lambda *_: self._signal(signal.SIGKILL))

        started = timestamp()
        pipes, failure = self._spawn(spec)
        write_json(self.folder / "state.json", {"shim": os.getpid(), "startedAt": started})
        answer.sendall(f"{self.folder}\n".encode())
        answer.close()
        self._pump(pipes, wake)
        code = os.waitstatus_to_exitcode(self.status or 0)
        write_json(
            self.folder / "exit.json",
            {
                "exitCode": 128 if failure else code if code >= 0 else 128 - code,
                "startError": failure,
                "startedAt": started,
                "finishedAt": timestamp(),
            },
        )

    def _spawn(self, spec: dict[str, Any]) -> tuple[dict[int, str], str]:
        """Start the program; return its output pipes and, if it can't be started, the reason."""
        output, output_write = os.pipe()
        errors, errors_write = os.pipe()
        failure, failure_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _execute(spec, output_write, errors_write)
            except Exception as error:
                os.write(failure_write, str(error).encode()[:4000])
            finally:
                os._exit(128)
        for descriptor in (output_write, errors_write, failure_write):
            os.close(descriptor)
        # The pipe closes at exec, so the program runs in its own session from here on and a
        # signal to its process group reaches it.
        with os.fdopen(failure, "rb") as file:
            reason = file.read().decode(errors="replace")
        return {output: "stdout", errors: "stderr"}, reason

    def _pump(self, pipes: dict[int, str], wake: int) -> None:
        """Copy output to the log until the first process has ended and nothing is left to read."""
        log = _Log(self.folder)
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            for descriptor in pipes:
                os.set_blocking(descriptor, False)
                selector.register(descriptor, selectors.EVENT_READ)
            while self.status is None:
                for key, _ in selector.select():
                    if key.fd == wake:
                        with contextlib.suppress(BlockingIOError):
                            os.read(wake, 4096)
                    elif not log.copy(key.fd, pipes[key.fd]):
                        selector.unregister(key.fd)
                self._reap()
        self._kill_the_rest()
        for descriptor, stream in pipes.items():
            while log.copy(descriptor, stream):
                pass
        log.close()

    def _reap(self) -> None:
        """Collect ended children; as the subreaper this process gets all orphans below it."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.pid:
                    self.status = status

    def _kill_the_rest(self) -> None:
        """Kill what the first process left behind: a container ends with its first process."""
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        if not children.exists():  # no Linux: what left the process group is out of reach
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            return
        while True:
            for pid in children.read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def _signal(self, number: int) -> None:
        # Until the first process is reaped its process group can't belong to anybody else.
        if self.pid and self.status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _execute(spec: dict[str, Any], output: int, errors: int) -> None:
    """Become the container's program; returns only by an exception."""
    signal.set_wakeup_fd(-1)
    for number in (
        signal.SIGCHLD,
        STOP,
        KILL,
        signal.SIGINT,
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):
        signal.signal(number, signal.SIG_DFL)  # ignored signals would stay ignored after exec
    os.setsid()
    os.umask(0o022)
    parent = os.getppid()
    if spec["view"] == "namespaces":
        mounts.enter(spec["root"], spec["mounts"])
    # After the namespaces, as a change of credentials clears it: without a shim nobody would
    # wait for the program, so the program must not go on alone.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128)
    os.chdir(spec["cwd"])
    for source, target in (
        (os.open(os.devnull, os.O_RDONLY), 0),
        (output, 1),
        (errors, 2),
    ):
        os.dup2(source, target)
    argv = spec["argv"]
    os.execvpe(argv[0], argv, spec["env"])  # noqa: S606 - the pod's own program


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class _Log:
    """Writes lines as CRI does: time, stream, F or P (a partial line), text."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log"
        self.file = self.path.open("ab", buffering=0)
        self.size = self.file.tell()
        self.rest = {"stdout": b"", "stderr": b""}

    def copy(self, descriptor: int, stream: str) -> bool:
        """Copy what the pipe holds now; False at its end or if it holds nothing."""
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return False
        *lines, rest = (self.rest[stream] + data).split(b"\n")
        head = f"{timestamp()} {stream} ".encode()
        out: list[bytes] = []
        for line in lines:
            while len(line) > LINE_LIMIT:
                out += (head, b"P ", line[:LINE_LIMIT], b"\n")
                line = line[LINE_LIMIT:]
            out += (head, b"F ", line, b"\n")
        while len(rest) > LINE_LIMIT:
            out += (head, b"P ", rest[:LINE_LIMIT], b"\n")
            rest = rest[LINE_LIMIT:]
        self.rest[stream] = rest
        self._write(b"".join(out))
        return bool(data)

    def close(self) -> None:
        for stream, rest in self.rest.items():
            if rest:
                self._write(f"{timestamp()} {stream} P ".encode() + rest + b"\n")
        self.file.close()

    def _write(self, data: bytes) -> None:
        if self.size + len(data) > LOG_LIMIT:
            self.path.replace(self.path.with_name("log.1"))
            self.file.close()
            self.file = self.path.open("ab", buffering=0)
            self.size = 0
        # A full disk must not end the container: its exit code is worth more than its log.
        with contextlib.suppress(OSError):
            self.file.write(data)
        self.size += len(data)

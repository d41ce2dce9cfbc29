"""Trainings without the imports: processes forked by one that has imported torch and the others.

``python -m tests.runners.forking`` imports what every training imports, starts nothing, and
forks for each request a child that then is ``python -m kubetune_runner``, with the environment and
the output that a new process would have. So a run costs six CPU seconds less.

What a fork can't give are variables that are read while importing (``IMPORTED``) and modules that a
training of another kind imports or leaves out: ``Forks.start`` refuses the former, and the caller
starts a new process for the latter.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypedDict

MODULES = [
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "accelerate",
    "mlflow",
    "sklearn.metrics",
    "trl.trainer.sft_trainer",
    "transformers.models.llama.modeling_llama",
]
IMPORTED = (
    "HF_",
    "HUGGING",
    "TRANSFORMERS_",
    "DATASETS_",
    "TORCH",
    "PYTORCH",
    # The others are read with each use, and the runner sets some itself.
    "MLFLOW_LOGGING_",
    "MLFLOW_CONFIGURE_LOGGING",
    "OMP_",
    "MKL_",
    "TOKENIZERS_",
    "CUDA_",
    "PYTHON",
    "HOME",
    "XDG_",
    "ACCELERATE_",
    "TRL_",
)
"""How the names of variables begin that libraries read while they are imported."""
# Of jemalloc, which pyarrow brings: it starts them anew in a child.
HARMLESS_THREADS = frozenset({"jemalloc_bg_thd"})
READY = b"!"
PR_SET_PDEATHSIG = 1


class Request(TypedDict):
    """What a child shall have of a process of its own."""

    environment: dict[str, str]
    folder: str


def import_time(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries read while they are imported."""
    return {name: value for name, value in environment.items() if name.startswith(IMPORTED)}


class Fork:
    """A child of the server, with what is needed here of ``subprocess.Popen``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answers = connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            return self._ended() if selector.select(0) else self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code once it has ended; raises subprocess.TimeoutExpired."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            if self.returncode is None and not selector.select(timeout):
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0)
        return self._ended()

    def send_signal(self, number: int) -> None:
        """Send a signal while it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self) -> int:
        if self.returncode is None:
            # Without an answer the server was killed, and its children with it.
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
        return self.returncode


class Forks:
    """The server, and processes that it forks."""

    def __init__(self, folder: Path) -> None:
        self._environment = dict(os.environ)
        self._requests, theirs = socket.socketpair()
        log = folder / "log"
        with theirs, log.open("wb") as output:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.runners.forking", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
            )
        assert self._requests.recv(1) == READY, log.read_text()

    def start(self, environment: Mapping[str, str], output: BinaryIO) -> Fork:
        """Start ``python -m kubetune_runner``."""
        given, known = import_time(environment), import_time(self._environment)
        assert given == known, f"start a new process: it reads {given.items() ^ known.items()}"
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._requests, [READY], [theirs.fileno(), output.fileno()])
        request: Request = {"environment": dict(environment), "folder": str(Path.cwd())}
        ours.sendall(json.dumps(request).encode() + b"\n")
        return Fork(ours)

    def close(self) -> None:
        """End the server; children that still run end with it."""
        self._server.kill()
        self._server.wait()
        self._requests.close()


def main() -> None:
    """Import, and serve until this process is killed."""
    gc.disable()
    # As a training without quantization does.
    importlib.import_module("kubetune_runner.model.quantization").leave_out()
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    gc.enable()
    threads = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    more = threads - HARMLESS_THREADS - {Path("/proc/self/comm").read_text().strip()}
    if more:
        sys.exit(f"imports have started threads, which a fork would lose: {sorted(more)}")
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        requests.sendall(READY)
        child = _serve(requests)
    if child:
        _become(*child)


def _serve(requests: socket.socket) -> tuple[Request, int] | None:
    """Fork for each request until nobody can send one any more.

    Returns in each child too, with what it shall be and the descriptor of its output.
    """
    wake, wake_write = socket.socketpair()
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if wake in ready:
                wake.recv(4096)
                _reap(children)
            if requests in ready:
                _, descriptors, _, _ = socket.recv_fds(requests, 1, 2)
                if not descriptors:
                    return None
                connection = socket.socket(fileno=descriptors[0])
                request: Request = json.loads(connection.makefile("rb").readline())
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    for other in (connection, wake, wake_write, *children.values()):
                        other.close()
                    return request, descriptors[1]
                os.close(descriptors[1])
                children[pid] = connection
                connection.sendall(f"{pid}\n".encode())


def _reap(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        connection = children.pop(pid)
        # The caller may have gone.
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        connection.close()


def _become(request: Request, output: int) -> None:
    """Be ``python -m kubetune_runner``, which ends by SystemExit as in a new process."""
    _end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    random.seed()
    importlib.import_module("numpy").random.seed()
    sys.argv = [""]
    runpy.run_module("kubetune_runner", run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()

"""Helpers of the cluster tests: waiting, and what the system says about processes and ports."""

import contextlib
import socket
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")


def eventually(question: Callable[[], T], seconds: float = 60, interval: float = 0.1) -> T:
    """The first true answer; AssertionError with the last one when ``seconds`` have passed.

    Who waits long is asked less often: the question takes CPU from what it waits for.
    """
    began = time.monotonic()
    deadline = began + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"still {answer!r} after {seconds} s")
        time.sleep(max(interval, (time.monotonic() - began) / 50))


def listening_addresses(pids: set[int]) -> set[tuple[str, int]]:
    """Addresses (host, port) on which any of these processes listens."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for pid in pids
        for connection in psutil.Process(pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def accepts_connections(port: int) -> bool:
    """True when something listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(home: Path) -> list[list[str]]:
    """Command lines of all living processes that name a cluster's home folder."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if alive and any(str(home) in part for part in command):
            found.append(command)
    return found


def process_of(run_key: str, worker: int | None = None, number: int | None = None) -> int:
    """The process of a run, or of one of its workers, or one of those that train in it."""
    texts = [None if given is None else str(given) for given in (worker, number)]
    for process in psutil.process_iter():
        try:
            found = process.environ()
        except psutil.Error:
            continue
        own = [found.get("KUBETUNE_WORKER"), found.get("KUBETUNE_PROCESS")]
        if found.get("KUBETUNE_RUN_KEY") == run_key and own == texts:
            return process.pid
    raise AssertionError(f"no process {number} of run {run_key}, worker {worker}")


@contextlib.contextmanager
def frozen(run_key: str) -> Generator[None]:
    """The process of a run does nothing within the block, and doesn't end when it is asked to."""
    process = psutil.Process(process_of(run_key))
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()

"""The operator as a process of its own, and what the system and its metrics say about it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import psutil

LISTED = "everything is listed"
WAITS = "this operator waits"
START_SECONDS = 120
QUIET_SECONDS = 0.5
"""The work queue must be empty for so long before the operator counts as done."""


class OperatorProcess:
    """``kubetune operator`` on some namespaces; use as an asynchronous context manager.

    With ``host`` it takes itself for one on another machine, which takes root; with ``waits`` it
    counts as started when it waits for the lease of another. ``metered`` is where it tells on
    SIGUSR1 what signing and checks have cost.
    """

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *namespaces: str,
        profile: Path | None = None,
        metered: Path | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "",
        waits: bool = False,
    ) -> None:
        self._log_path = log
        self._port = _free_port()
        command = [sys.executable]
        if profile:
            command += ["-m", "cProfile", "-o", str(profile)]
        entry = ["tests.bench.metered", str(metered)] if metered else ["kubetune.cli"]
        command += ["-m", *entry, "operator"]
        command += [f"--namespace={namespace}" for namespace in namespaces]
        command += ["--health-port", str(self._port)]
        if host:
            named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host]
            command = named + command
        self._command = command
        self._waits = waits
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            # Tracking servers and the simulator are on this machine.
            "KUBETUNE_EGRESS_ALLOW": "127.0.0.0/8",
            **(environment or {}),
        }
        # The image brings compiled modules; here the first start leaves them for the others.
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> OperatorProcess:
        """Start it and wait until it has caught up."""
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - forking takes no time
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            await self._caught_up()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self, *, kill: bool = False) -> None:
        """Order it to end, or kill it; nothing happens when it has ended."""
        process = self._running()
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)

    @property
    def health_url(self) -> str:
        """Answers at once while its loop is free."""
        return f"http://127.0.0.1:{self._port}/healthz"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._running().send_signal(number)

    def cpu_seconds(self) -> float:
        """User and system time since its start."""
        times = psutil.Process(self._running().pid).cpu_times()
        return times.user + times.system

    def rss_megabytes(self) -> float:
        """Resident memory."""
        return psutil.Process(self._running().pid).memory_info().rss / 1e6

    async def queue_length(self) -> float:
        """How many objects wait or are looked at."""
        async with aiohttp.ClientSession() as session:
            return await self._queue_length(session)

    async def idle(self) -> None:
        """Wait until its work queue stays empty."""
        quiet_since = None
        async with aiohttp.ClientSession() as session, asyncio.timeout(START_SECONDS):
            while quiet_since is None or time.monotonic() - quiet_since < QUIET_SECONDS:
                length = await self._queue_length(session)
                if length:
                    quiet_since = None
                elif quiet_since is None:
                    quiet_since = time.monotonic()
                await asyncio.sleep(QUIET_SECONDS / 5)

    async def _caught_up(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            line = WAITS if self._waits else LISTED
            while line not in self._log_path.read_text(errors="replace"):
                if self._running().poll() is not None:
                    raise RuntimeError(f"the operator ended:\n{self._log_path.read_text()[-3000:]}")
                await asyncio.sleep(0.05)
        if not self._waits:
            await self.idle()

    async def _queue_length(self, session: aiohttp.ClientSession) -> float:
        async with session.get(f"http://127.0.0.1:{self._port}/metrics") as response:
            found = re.search(r"^kubetune_queue_length (\S+)", await response.text(), re.MULTILINE)
        if found is None:
            raise RuntimeError("the operator's metrics have no kubetune_queue_length")
        return float(found[1])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the operator was not started")
        return self._process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""The node's handle on a container's shim: start it, find it again, signal it, await its end."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from .shim import write_json

MARK = "KUBETUNE_CONTAINER"
"""Environment variable of all processes of a container: pod uid / container name."""
_START_LIMIT = 60
"""Seconds to wait for the zygote's answer; only a killed shim leaves it out."""


class Zygote:
    """The asyncio side of the zygote's socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def connect(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        self._reader_task = asyncio.create_task(self._read(reader))

    async def start_shim(self, folder: Path) -> None:
        """Start the shim of the container folder; returns when its program runs or has failed."""
        answer = self._waiting[str(folder)] = asyncio.get_running_loop().create_future()
        self._writer.write(f"{folder}\n".encode())
        try:
            async with asyncio.timeout(_START_LIMIT):
                await answer
        finally:
            del self._waiting[str(folder)]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            waiting = self._waiting.get(line.decode().rstrip("\n"))
            if waiting and not waiting.done():
                waiting.set_result(None)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the zygote has died: restart the node"))


class Attempt:
    """One run of one container; its folder on disk is the only state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starting: asyncio.Task[None] | None = None

    @property
    def known(self) -> bool:
        """Whether a shim was ever started here, by this node process or one before."""
        return (self.folder / "lock").exists()

    async def start(self, zygote: Zygote, spec: dict[str, Any]) -> None:
        """Run the program that `spec` describes (see shim.py), shielded from cancellation.

        A start once asked for can't be taken back: whoever cancels finds it in `starting`.
        """
        write_json(self.folder / "spec.json", spec)
        self.starting = asyncio.create_task(zygote.start_shim(self.folder))
        await asyncio.shield(self.starting)

    @property
    def started_at(self) -> str | None:
        """When the program was started, in RFC 3339; None without a shim that came that far."""
        state = self._read("state.json")
        return state["startedAt"] if state else None

    @property
    def running(self) -> bool:
        """Whether the shim lives: it holds the lock for life."""
        try:
            with (self.folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        return False

    async def wait(self) -> dict[str, Any] | None:
        """The contents of `exit.json` once the shim has ended; None if it was lost."""
        while self.running:
            state = self._read("state.json")
            if state is None:
                await asyncio.sleep(0.1)  # the shim is between its lock and its state
            else:
                await self._wait_for_process(state["shim"])
        end = self._read("exit.json")
        if end is None:
            self._kill_strays()
        return end

    def signal(self, number: signal.Signals) -> None:
        """Send STOP or KILL of shim.py to the shim, if it lives."""
        state = self._read("state.json")
        if state and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(state["shim"], number)

    def _kill_strays(self) -> None:
        """Kill what a lost shim left: the kernel ends only the shim's own child with it.

        Found by the mark in their environment, as a pid may belong to somebody else by now.
        """
        spec = self._read("spec.json")
        mark = f"{MARK}={spec['env'][MARK]}".encode() if spec else None
        for process in Path("/proc").glob("[0-9]*") if mark else ():
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)

    async def _wait_for_process(self, pid: int) -> None:
        if not hasattr(os, "pidfd_open"):  # macOS
            await asyncio.sleep(0.2)
            return
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            await asyncio.sleep(0.05)
            return
        try:
            # With the lock still held the descriptor is the shim's and not that of a process
            # which got its pid.
            if self.running:
                loop = asyncio.get_running_loop()
                ended: asyncio.Future[None] = loop.create_future()
                loop.add_reader(descriptor, lambda: ended.done() or ended.set_result(None))
                try:
                    await ended
                finally:
                    loop.remove_reader(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return None

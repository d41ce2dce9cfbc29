"""The work queue: keys to reconcile, each at most once at a time.

An event handler of kopf may fail without a second try, so handlers only add keys here. A
key that is added while it is being worked on is worked on once more afterwards. Failures
come back after a growing, jittered delay.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 120.0


class Key(NamedTuple):
    """An object to reconcile; cluster-wide kinds have namespace ``""``."""

    kind: str
    namespace: str
    name: str


def backoff(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds to wait after the n-th failure in a row: 1, 2, 4 ... 120, and up to half more."""
    base = min(FIRST_BACKOFF_SECONDS * 2 ** (failures - 1), MAX_BACKOFF_SECONDS)
    return base * (1 + jitter() / 2)


class WorkQueue:
    """De-duplicated keys with due times, served by a fixed number of workers."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._due: list[tuple[float, Key]] = []
        self._earliest: dict[Key, float] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._active)

    def add(self, key: Key) -> None:
        """Have the key worked on as soon as a worker is free."""
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Have the key worked on in some seconds; the earliest of several calls counts."""
        if seconds <= 0:
            self.add(key)
            return
        due = asyncio.get_running_loop().time() + seconds
        if self._earliest.get(key, float("inf")) <= due:
            return
        self._earliest[key] = due
        heapq.heappush(self._due, (due, key))
        self._set_alarm()

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that is gone."""
        self._failures.pop(key, None)
        self._earliest.pop(key, None)

    async def run(self, work: Callable[[Key], Awaitable[None]], workers: int) -> None:
        """Serve keys until cancelled. An exception of ``work`` brings the key back later."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._serve(work))

    async def _serve(self, work: Callable[[Key], Awaitable[None]]) -> None:
        while True:
            key = await self._ready.get()
            self._waiting.discard(key)
            self._active.add(key)
            try:
                await work(key)
            except Exception:
                # ``work`` reports its errors itself; here only the way back matters.
                self._failures[key] = self._failures.get(key, 0) + 1
                self.add_after(key, backoff(self._failures[key]))
            else:
                self._failures.pop(key, None)
            finally:
                self._active.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    def _set_alarm(self) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if self._due:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_at(self._due[0][0], self._ring)

    def _ring(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now:
            due, key = heapq.heappop(self._due)
            if self._earliest.get(key) == due:
                del self._earliest[key]
                self.add(key)
        self._alarm = None
        self._set_alarm()

"""The work queue: keys to reconcile, each at most once at a time.

What takes in an event has no second try, so it only adds keys here. A key that is added while it
is being worked on is worked on once more afterwards. Failures come back after a growing, jittered
delay.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from kubetune.queue.outside import Worker, working
from kubetune.queue.turns import Turns

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 120.0
AT_ONCE = 100
"""Keys of many that are added before somebody else has the loop: less than a millisecond."""


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
    """De-duplicated keys with due times, served by a fixed number of workers.

    Namespaces take turns, and cluster-wide objects are one of them: see kubetune.queue.turns. A
    key that waits for somebody outside has no worker meanwhile: see kubetune.queue.outside.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turns = Turns(spare=True)
        self._serve: Callable[[Key], object] | None = None
        self._waiting: dict[Key, float] = {}
        """Since when, the longest first."""
        self._many: deque[Iterator[Key]] = deque()
        """What is added soon, in this order."""
        self._active: set[Key] = set()
        self._again: dict[Key, float] = {}
        """What was added while it was worked on, and when."""
        self._served_since: float | None = None
        self._failures: dict[Key, int] = {}
        self._due: list[tuple[float, Key]] = []
        self._earliest: dict[Key, float] = {}
        self._alarm: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many keys are to be worked on; of many that are being added, at least one."""
        return len(self._many) + len(self._waiting) + len(self._active)

    def oldest(self) -> tuple[Key, float] | None:
        """The key that has waited longest to be worked on, and for how many seconds.

        None when none waits, or nobody serves: an operator without the lease has no hurry.
        """
        if self._served_since is None:
            return None
        first = [next(iter(keys.items()), None) for keys in (self._waiting, self._again)]
        waits = [(since, key) for key, since in filter(None, first)]
        if not waits:
            return None
        since, key = min(waits)
        return key, self._clock() - max(since, self._served_since)

    @property
    def outside(self) -> int:
        """How many keys wait for somebody outside."""
        return len(self._active) - self._turns.taken

    def add(self, key: Key) -> None:
        """Have the key worked on as soon as a worker is free."""
        if key in self._active:
            self._again.setdefault(key, self._clock())
        elif key not in self._waiting:
            self._waiting[key] = self._clock()
            self._turns.ask(key.namespace, partial(self._begin, key))

    def add_all(self, keys: Iterable[Key]) -> None:
        """Add many keys, without holding the loop for as long as that takes."""
        self._many.append(iter(keys))
        if len(self._many) == 1:
            self._add_some()

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
            self._serve = lambda key: group.create_task(self._work_on(key, work))
            self._served_since = self._clock()
            self._turns.open(workers)
            try:
                # Only a cancellation ends it.
                await asyncio.get_running_loop().create_future()
            finally:
                self._turns.open(0)
                self._served_since = None

    def _add_some(self) -> None:
        """Add some, and have the loop come back for the rest."""
        left = AT_ONCE
        while self._many and left:
            some = list(islice(self._many[0], left))
            for key in some:
                self.add(key)
            if len(some) < left:
                self._many.popleft()
            left -= len(some)
        if self._many:
            asyncio.get_running_loop().call_soon(self._add_some)

    def _begin(self, key: Key) -> None:
        if self._serve is None:
            raise RuntimeError("nobody has a turn while nobody serves")
        del self._waiting[key]
        self._active.add(key)
        self._serve(key)

    async def _work_on(self, key: Key, work: Callable[[Key], Awaitable[None]]) -> None:
        worker = Worker(self._turns, key.namespace)
        working.set(worker)
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
            if self._again.pop(key, None) is not None:
                self.add(key)
            worker.end()

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

"""Waiting for somebody outside of the cluster, which costs nobody a worker.

A tracking server or a workspace that doesn't answer would otherwise hold the worker of each object
that asks it, until nobody is reconciled any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from kubetune.queue.turns import Turns

T = TypeVar("T")

CALLS_AT_ONCE = 8
"""To one place."""


class Worker:
    """The worker that an object's reconcile has, or has given back for a while."""

    def __init__(self, turns: Turns, namespace: str) -> None:
        self.namespace = namespace
        self._turns = turns
        self._held = True
        self._ended = False
        self._waits = 0
        """Calls of this reconcile that are under way: there may be several at a time."""

    def give_back(self) -> None:
        """Let another object have it, the first of several times."""
        self._waits += 1
        self.release()

    async def take_again(self) -> None:
        """Wait for one, unless another call is still under way."""
        self.wait_no_more()
        if not self._waits and not self._held and not self._ended:
            await turn_of(self._turns, self.namespace, first=True)
            self._held = True

    def wait_no_more(self) -> None:
        """A call has ended, or was given up."""
        self._waits -= 1

    def end(self) -> None:
        """The reconcile is over."""
        self._ended = True
        self.release()

    def release(self) -> None:
        """Have none from now on."""
        if self._held:
            self._held = False
            self._turns.done(self.namespace)


working: ContextVar[Worker | None] = ContextVar("working", default=None)
"""The worker of the reconcile that runs; None elsewhere."""


@asynccontextmanager
async def without_worker() -> AsyncGenerator[None]:
    """Hold no worker within the block; afterwards go on once there is one again.

    No other worker takes the same object meanwhile.
    """
    worker = working.get()
    if worker is None:
        yield
        return
    worker.give_back()
    try:
        yield
    except asyncio.CancelledError:
        # The operator ends: nobody gives anything back any more.
        worker.wait_no_more()
        raise
    except BaseException:
        await worker.take_again()
        raise
    await worker.take_again()


def background(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that goes on after the reconcile which starts it, and has nothing of its worker."""
    context = copy_context()
    context.run(working.set, None)
    return asyncio.get_running_loop().create_task(work, context=context)


async def turn_of(turns: Turns, namespace: str, *, first: bool = False) -> None:
    """Wait for a turn; ``turns.done`` ends it."""
    mine = asyncio.get_running_loop().create_future()

    def go() -> None:
        if mine.cancelled():
            turns.done(namespace)
        else:
            mine.set_result(None)

    turns.ask(namespace, go, first=first)
    try:
        await mine
    except asyncio.CancelledError:
        if mine.done() and not mine.cancelled():
            turns.done(namespace)
        raise


class SilentError(Exception):
    """Nobody answers at a place; said by a call that has waited for it."""


class Place:
    """Calls to one place outside of the cluster: so many at a time, the others wait in line.

    ``silence`` are the errors of a call that got no answer. Who is in line then gets a SilentError,
    as waiting for the same one after the other would take each of them ever longer.
    """

    def __init__(
        self, silence: type[Exception] | tuple[type[Exception], ...], width: int = CALLS_AT_ONCE
    ) -> None:
        self._silence = silence
        self._turns = Turns(width)
        self._silent = 0
        """How many calls got no answer."""
        self._told = ""

    @asynccontextmanager
    async def call(self) -> AsyncGenerator[None]:
        """Make a call within the block, which holds no worker. Raises SilentError."""
        worker = working.get()
        # The operator's own tasks are like a namespace: they wait for nobody's objects.
        namespace = worker.namespace if worker else "*"
        async with without_worker():
            known = self._silent
            await turn_of(self._turns, namespace)
            try:
                if self._silent != known:
                    raise SilentError(self._told)
                yield
            except self._silence as error:
                self._silent += 1
                self._told = str(error)
                raise
            finally:
                self._turns.done(namespace)

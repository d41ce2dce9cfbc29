"""The work queue: nothing is lost, nothing is worked on twice at once.

Time is the event loop's own, turned forward by hand, so due times cost no waiting.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.queue import Key, WorkQueue, backoff
from kubetune.queue.work_queue import AT_ONCE

Work = Callable[[Key], Awaitable[None]]
A, B, C = (Key("Dataset", "team", name) for name in "abc")


class _NoWait(selectors.DefaultSelector):
    """Turns the clock forward instead of waiting for the next timer."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everybody waits and no timer is set")
        self._loop.now += max(timeout, 0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    now = 0.0

    def __init__(self) -> None:
        super().__init__(_NoWait(self))

    def time(self) -> float:
        return self.now


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main)


async def served(queue: WorkQueue, work: Work, body: Awaitable[None], *, workers: int = 2) -> None:
    """Serve the queue while ``body`` runs."""
    server = asyncio.create_task(queue.run(work, workers))
    await body
    server.cancel()
    await asyncio.wait([server])


STEPS = st.lists(
    st.tuples(
        st.sampled_from([A, B, C]),
        st.sampled_from([None, 0.0, 0.5, 3.0, 50.0]),
        st.sampled_from([0.0, 0.1, 1.0, 20.0]),
    ),
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(1, 3), st.lists(st.booleans(), max_size=25))
def test_each_key_is_worked_on_after_its_last_add_and_never_twice_at_once(
    steps: list[tuple[Key, float | None, float]], workers: int, failures: list[bool]
) -> None:
    """Steps are (key, delay of the add or None for at once, pause afterwards)."""

    async def main() -> None:
        queue, active = WorkQueue(), Counter[Key]()
        loop = asyncio.get_running_loop()
        due: dict[Key, float] = {}
        begun: dict[Key, float] = {}
        fails = iter(failures)

        async def work(key: Key) -> None:
            active[key] += 1
            assert active[key] == 1, "one worker per key"
            assert sum(active.values()) <= workers
            begun[key] = loop.time()
            await asyncio.sleep(0.3)
            active[key] -= 1
            if next(fails, False):
                raise RuntimeError("comes back later")

        async def body() -> None:
            for key, delay, pause in steps:
                # Work that began before now knows nothing of this add.
                due[key] = loop.time()
                if delay is None:
                    queue.add(key)
                else:
                    queue.add_after(key, delay)
                await asyncio.sleep(pause)
            await asyncio.sleep(10000)
            assert len(queue) == 0

        await served(queue, work, body(), workers=workers)
        assert begun.keys() == due.keys()
        assert all(begun[key] >= due[key] for key in due)

    run(main())


def test_key_that_changes_while_it_is_worked_on_is_worked_on_again() -> None:
    async def main() -> None:
        queue, seen = WorkQueue(), list[float]()
        loop = asyncio.get_running_loop()

        async def work(key: Key) -> None:
            seen.append(loop.time())
            await asyncio.sleep(1)

        async def body() -> None:
            queue.add(A)
            await asyncio.sleep(0.5)
            queue.add(A)
            queue.add(A)
            await asyncio.sleep(10)

        await served(queue, work, body())
        assert seen == [0, 1]

    run(main())


def test_waiting_key_is_there_once() -> None:
    async def main() -> None:
        queue, seen = WorkQueue(), list[Key]()

        async def work(key: Key) -> None:
            seen.append(key)

        queue.add(A)
        queue.add(A)
        await served(queue, work, asyncio.sleep(1))
        assert seen == [A]

    run(main())


def test_earliest_due_time_counts() -> None:
    async def main() -> None:
        queue, seen = WorkQueue(), list[float]()
        loop = asyncio.get_running_loop()

        async def work(key: Key) -> None:
            seen.append(loop.time())

        for seconds in (30, 10, 20):
            queue.add_after(A, seconds)
        await served(queue, work, asyncio.sleep(100))
        assert seen == [10]

    run(main())


def test_forgotten_key_doesn_t_come_back() -> None:
    async def main() -> None:
        queue, seen = WorkQueue(), list[Key]()

        async def work(key: Key) -> None:
            seen.append(key)

        queue.add_after(A, 10)
        queue.add_after(B, 10)
        queue.forget(A)
        await served(queue, work, asyncio.sleep(100))
        assert seen == [B]

    run(main())


def test_failures_come_back_ever_later_and_success_clears_them() -> None:
    async def main() -> None:
        queue, seen = WorkQueue(), list[float]()
        loop = asyncio.get_running_loop()

        async def work(key: Key) -> None:
            seen.append(loop.time())
            if len(seen) != 4:
                raise RuntimeError("no")

        async def body() -> None:
            queue.add(A)
            await asyncio.sleep(1000)
            queue.add(A)
            await asyncio.sleep(1.6)

        await served(queue, work, body())
        first, second, third, fourth, again, after = seen[:6]
        assert 1 <= second - first <= 1.5
        assert 2 <= third - second <= 3
        assert 4 <= fourth - third <= 6
        assert 1 <= after - again <= 1.5

    run(main())


def test_slow_key_holds_up_nobody_else() -> None:
    async def main() -> None:
        queue, seen = WorkQueue(), list[Key]()

        async def work(key: Key) -> None:
            if key == A:
                await asyncio.sleep(1000)
            seen.append(key)

        async def body() -> None:
            queue.add(A)
            queue.add(A)
            queue.add(B)
            queue.add(C)
            await asyncio.sleep(1)

        # Of four workers a namespace alone has two.
        await served(queue, work, body(), workers=4)
        assert seen == [B, C]

    run(main())


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (5, 16), (8, 120), (50, 120)])
def test_backoff(failures: int, seconds: float) -> None:
    assert backoff(failures, lambda: 0.0) == seconds
    assert backoff(failures, lambda: 1.0) == seconds * 1.5


def test_how_long_the_oldest_key_waits_counts_from_when_somebody_serves() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue, go_on = WorkQueue(loop.time), asyncio.Event()

        async def work(key: Key) -> None:
            if key == A:
                await go_on.wait()

        async def body() -> None:
            # Nobody waits: one is worked on, and has nothing new.
            await asyncio.sleep(10)
            assert queue.oldest() is None
            queue.add(A)
            await asyncio.sleep(5)
            queue.add(A)
            queue.add(B)
            await asyncio.sleep(5)
            assert queue.oldest() == (A, 10.0)
            go_on.set()
            await asyncio.sleep(1)
            assert queue.oldest() is None

        queue.add(A)
        await asyncio.sleep(100)
        assert queue.oldest() is None
        await served(queue, work, body())
        assert queue.oldest() is None

    run(main())


def test_many_keys_are_added_while_others_have_the_loop() -> None:
    """As when thousands of objects wait for one that appears."""
    many = [Key("FineTuneJob", "flood", f"tune-{number}") for number in range(3 * AT_ONCE + 1)]
    taken: list[Key] = []
    worked = Counter[Key]()

    def given_out(keys: list[Key]) -> Iterator[Key]:
        for key in keys:
            taken.append(key)
            yield key

    async def main() -> None:
        queue = WorkQueue()

        all_worked = asyncio.Event()

        async def work(key: Key) -> None:
            worked[key] += 1
            if len(worked) == len(many) + 2:
                all_worked.set()

        async def body() -> None:
            queue.add_all(given_out(many))
            queue.add_all(given_out([A, *many[:5]]))
            assert len(taken) == AT_ONCE
            queue.add(B)
            before = len(taken)
            await asyncio.sleep(0)
            # Of one turn of the loop, in which others had theirs.
            assert len(taken) - before <= AT_ONCE
            await all_worked.wait()

        await served(queue, work, body())

    run(main())
    assert taken == [*many, A, *many[:5]]
    assert worked.keys() == {A, B, *many}


def test_few_keys_are_added_at_once_and_without_a_loop() -> None:
    queue = WorkQueue()
    queue.add_all([A, B, A])
    queue.add_all([])
    assert len(queue) == 2

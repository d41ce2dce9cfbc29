"""Reconciles that wait for somebody outside: they hold no worker, and no other place's turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.queue import Key, Place, SilentError, WorkQueue, background, without_worker

from tests.unit.test_queue import run, served

A, B, C = (Key("Dataset", namespace, "rows") for namespace in ("a", "b", "c"))


def test_who_waits_outside_holds_up_nobody() -> None:
    async def main() -> None:
        queue, answered = WorkQueue(), asyncio.Event()
        seen: list[Key] = []
        silent = [Key("ComputeTarget", "a", f"silent-{at}") for at in range(60)]

        async def work(key: Key) -> None:
            if key in silent:
                async with without_worker():
                    await answered.wait()
            seen.append(key)

        async def body() -> None:
            for key in [*silent, A, B]:
                queue.add(key)
            await asyncio.sleep(1)
            assert seen == [B, A]
            assert queue.outside == len(silent)
            answered.set()
            await asyncio.sleep(1)
            assert Counter(seen) == Counter([*silent, A, B])
            assert len(queue) == queue.outside == 0

        await served(queue, work, body(), workers=1)

    run(main())


def test_a_key_that_waits_outside_is_not_worked_on_twice() -> None:
    async def main() -> None:
        queue = WorkQueue()
        active, begun = 0, 0

        async def work(_: Key) -> None:
            nonlocal active, begun
            active, begun = active + 1, begun + 1
            assert active == 1
            async with without_worker():
                await asyncio.sleep(10)
            active -= 1

        async def body() -> None:
            for _ in range(5):
                queue.add(A)
                await asyncio.sleep(1)
            await asyncio.sleep(100)
            assert begun == 2

        await served(queue, work, body(), workers=4)

    run(main())


WAITS = st.lists(st.sampled_from([0.0, 0.5, 2.0]), max_size=4)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), WAITS, st.booleans(), st.booleans()), max_size=12),
    st.integers(1, 4),
)
def test_never_more_at_work_than_workers(
    given_work: list[tuple[str, list[float], bool, bool]], workers: int
) -> None:
    """By key: namespace, seconds of its waits, whether they are at once, whether each fails."""

    async def main() -> None:
        queue = WorkQueue()
        plans = {Key("Dataset", item[0], f"n{at}"): item for at, item in enumerate(given_work)}
        at_work, ended = 0, Counter[Key]()

        async def wait(seconds: float, fails: bool) -> None:
            async with without_worker():
                await asyncio.sleep(seconds)
                if fails:
                    raise ValueError

        async def busy() -> None:
            nonlocal at_work
            at_work += 1
            assert at_work <= workers
            await asyncio.sleep(0.1)
            at_work -= 1

        async def work(key: Key) -> None:
            _, waits, at_once, fails = plans[key]
            await busy()
            if at_once:
                await asyncio.gather(*(wait(item, fails) for item in waits), return_exceptions=True)
                await busy()
            for seconds in [] if at_once else waits:
                try:
                    await wait(seconds, fails)
                except ValueError:
                    assert fails
                await busy()
            ended[key] += 1

        async def body() -> None:
            for key in plans:
                queue.add(key)
            await asyncio.sleep(1000)

        await served(queue, work, body(), workers=workers)
        assert ended == Counter(plans.keys())

    run(main())


def test_a_task_that_a_reconcile_starts_has_nothing_of_its_worker() -> None:
    async def main() -> None:
        queue, place = WorkQueue(), Place(NoAnswerError)
        seen: list[Key] = []
        tasks: list[asyncio.Task[None]] = []

        async def follow() -> None:
            for _ in range(10):
                async with place.call():
                    await asyncio.sleep(1)

        async def work(key: Key) -> None:
            seen.append(key)
            # As what keeps the context of who starts it does, too.
            tasks.extend([background(follow()), asyncio.create_task(follow())])
            async with place.call():
                await asyncio.sleep(0.5)

        async def body() -> None:
            for _ in range(3):
                for key in (A, B, C):
                    queue.add(key)
                await asyncio.sleep(100)
            assert Counter(seen) == Counter({A: 3, B: 3, C: 3})
            assert queue.outside == 0

        await served(queue, work, body(), workers=1)
        assert all(task.done() and not task.exception() for task in tasks)

    run(main())


def test_ending_waits_for_nobody_outside() -> None:
    async def main() -> None:
        queue = WorkQueue()

        async def work(key: Key) -> None:
            async with without_worker():
                await asyncio.Event().wait()

        server = asyncio.create_task(queue.run(work, 1))
        for key in (A, B, C):
            queue.add(key)
        await asyncio.sleep(1)
        server.cancel()
        done, _ = await asyncio.wait([server], timeout=1)
        assert done == {server}

    run(main())


class NoAnswerError(Exception):
    """The place was given enough time."""


def test_a_place_has_so_many_calls_at_a_time_and_keeps_nobody_else_in_line() -> None:
    async def main() -> None:
        place, open_now, most = Place(NoAnswerError, 3), 0, 0

        async def call() -> None:
            nonlocal open_now, most
            async with place.call():
                open_now += 1
                most = max(most, open_now)
                await asyncio.sleep(1)
                open_now -= 1

        await asyncio.gather(*(call() for _ in range(20)))
        assert most == 3

    run(main())


def test_who_is_in_line_for_a_silent_place_is_told_at_once() -> None:
    async def main() -> None:
        place, loop = Place(NoAnswerError, 2), asyncio.get_running_loop()
        sent = 0

        async def call() -> None:
            nonlocal sent
            async with place.call():
                sent += 1
                await asyncio.sleep(5)
                raise NoAnswerError("silence")

        calls: list[Coroutine[Any, Any, None]] = [call() for _ in range(1000)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert loop.time() == 5
        assert sent == 2
        assert Counter(map(type, errors)) == Counter({SilentError: 998, NoAnswerError: 2})
        assert {str(error) for error in errors} == {"silence"}
        # Who comes later asks again.
        again = await asyncio.gather(call(), return_exceptions=True)
        assert isinstance(again[0], NoAnswerError)

    run(main())


def test_a_call_that_is_given_up_in_line_leaves_its_place() -> None:
    async def main() -> None:
        place = Place(NoAnswerError, 1)

        async def call(seconds: float) -> None:
            async with place.call():
                await asyncio.sleep(seconds)

        first, second = asyncio.create_task(call(10)), asyncio.create_task(call(10))
        await asyncio.sleep(1)
        second.cancel()
        await first
        async with asyncio.timeout(1):
            await call(0.5)

    run(main())


def test_a_place_serves_namespaces_in_turn() -> None:
    async def main() -> None:
        queue, place = WorkQueue(), Place(NoAnswerError, 2)
        ended: list[Key] = []
        crowd = [Key("FineTuneJob", "a", f"n{at}") for at in range(100)]

        async def work(key: Key) -> None:
            async with place.call():
                await asyncio.sleep(1)
            ended.append(key)

        async def body() -> None:
            for key in [*crowd, B]:
                queue.add(key)
            await asyncio.sleep(1000)

        await served(queue, work, body(), workers=4)
        assert ended.index(B) <= 4
        assert len(ended) == 101

    run(main())

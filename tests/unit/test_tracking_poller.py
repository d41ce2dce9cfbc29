"""The progress poller: batched, isolated per server, silent when nothing is watched."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from kubetune.tracking.base import TrackedRun, TrackingError
from kubetune.tracking.poller import ProgressPoller

INSTALL = "install-1"


class ScriptedTracker:
    """A tracking server that shows the runs it was given; only ``running`` is of use here."""

    def __init__(self, *runs: TrackedRun) -> None:
        self.runs = {run.run_key: run for run in runs}
        self.problem: Exception | None = None
        self.hangs = False
        self.asked: list[tuple[str, ...]] = []

    async def running(self, install_id: str, experiments: Sequence[str]) -> list[TrackedRun]:
        assert install_id == INSTALL
        self.asked.append(tuple(experiments))
        if self.hangs:
            await asyncio.Event().wait()
        if self.problem:
            raise self.problem
        return list(self.runs.values())


def run(run_key: str, step: float = 1) -> TrackedRun:
    return TrackedRun(run_key, "1", f"id-{run_key}", "RUNNING", metrics={"step": step})


@asynccontextmanager
async def polling() -> AsyncGenerator[tuple[ProgressPoller[str], list[str]]]:
    """A poller at work and the keys that it notified."""
    notified: list[str] = []
    poller = ProgressPoller[str](INSTALL, 0.01, notified.append)
    task = asyncio.create_task(poller.run())
    try:
        yield poller, notified
        assert not task.done(), "the poller has died"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(question: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not question():  # noqa: ASYNC110 - what is asked has no event
            await asyncio.sleep(0.005)


async def polls(tracker: ScriptedTracker, count: int) -> None:
    """Wait for so many further polls."""
    before = len(tracker.asked)
    await until(lambda: len(tracker.asked) >= before + count)


async def test_one_search_serves_all_jobs_of_a_server():
    tracker = ScriptedTracker(run("a"), run("b"), run("of-nobody"))
    async with polling() as (poller, notified):
        poller.watch("server", tracker, "a", "team-1", "ns/a")
        poller.watch("server", tracker, "b", "team-2", "ns/b")
        await until(lambda: poller.tracked("a") and poller.tracked("b"))
        assert set(tracker.asked) == {("team-1", "team-2")}
        assert sorted(notified) == ["ns/a", "ns/b"]
        assert poller.tracked("of-nobody") is None


async def test_only_news_are_told():
    tracker = ScriptedTracker(run("a"), run("b", math.nan))
    async with polling() as (poller, notified):
        poller.watch("server", tracker, "a", "team", "ns/a")
        poller.watch("server", tracker, "b", "team", "ns/b")
        await polls(tracker, 4)
        assert sorted(notified) == ["ns/a", "ns/b"]
        tracker.runs["a"] = run("a", 2)
        await until(lambda: len(notified) == 3)
        assert notified[2] == "ns/a"
        assert poller.tracked("a") == run("a", 2)


async def test_a_run_that_is_no_longer_running_keeps_its_last_state():
    tracker = ScriptedTracker(run("a"))
    async with polling() as (poller, _):
        poller.watch("server", tracker, "a", "team", "ns/a")
        await until(lambda: poller.tracked("a"))
        tracker.runs.clear()
        await polls(tracker, 2)
        assert poller.tracked("a") == run("a")
        poller.unwatch("a")
        assert poller.tracked("a") is None


async def test_nothing_is_asked_while_nothing_is_watched():
    tracker, other = ScriptedTracker(run("a")), ScriptedTracker(run("b"))
    async with polling() as (poller, _):
        poller.watch("server", tracker, "a", "team", "ns/a")
        await polls(tracker, 1)
        poller.unwatch("a")
        poller.unwatch("a")
        asked = len(tracker.asked)
        # The other server's polls are the clock.
        poller.watch("other", other, "b", "team", "ns/b")
        await polls(other, 5)
        assert len(tracker.asked) == asked
        poller.watch("server", tracker, "a", "team", "ns/a")
        await polls(tracker, 1)


async def test_a_failing_server_shows_its_error_and_recovers():
    tracker = ScriptedTracker(run("a"))
    tracker.problem = TrackingError("server is away")
    async with polling() as (poller, notified):
        poller.watch("server", tracker, "a", "team", "ns/a")
        await polls(tracker, 3)
        assert poller.error("a") == "server is away"
        assert notified == ["ns/a"], "an error is told once, not at every poll"
        tracker.problem = None
        await until(lambda: poller.tracked("a"))
        assert poller.error("a") == ""
        assert notified == ["ns/a", "ns/a"]


async def test_an_answer_of_another_kind_is_an_error_too():
    tracker = ScriptedTracker(run("a"))
    tracker.problem = KeyError("info")
    async with polling() as (poller, _):
        poller.watch("server", tracker, "a", "team", "ns/a")
        await until(lambda: poller.error("a"))
        assert "can't be read" in poller.error("a")
        tracker.problem = None
        await until(lambda: poller.tracked("a"))


async def test_a_hanging_server_delays_nobody_else():
    slow, quick = ScriptedTracker(), ScriptedTracker(run("b"))
    slow.hangs = True
    async with polling() as (poller, _):
        poller.watch("slow", slow, "a", "team", "ns/a")
        poller.watch("quick", quick, "b", "team", "ns/b")
        await polls(quick, 5)
        assert poller.tracked("b") == run("b")
        assert len(slow.asked) == 1


async def test_new_credentials_move_a_run_to_another_tracker():
    refused, accepted = ScriptedTracker(), ScriptedTracker(run("a"))
    refused.problem = TrackingError("refused", credentials=True)
    async with polling() as (poller, _):
        poller.watch("old", refused, "a", "team", "ns/a")
        await until(lambda: poller.error("a"))
        poller.watch("new", accepted, "a", "team", "ns/a")
        await until(lambda: poller.tracked("a"))
        assert poller.error("a") == ""
        asked = len(refused.asked)
        await polls(accepted, 5)
        assert len(refused.asked) == asked

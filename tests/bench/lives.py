"""The rest of a job's life: the bench plays Job controller and node, the operator follows."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from kubetune.api import JsonObject

from .control_plane import NAMESPACE, ControlPlane, until
from .objects import job_complete, path, pod, pod_running, pod_succeeded
from .submission import at_once, phases

PACE_SECONDS = 0.25
REACTION_SECONDS = 30


@dataclass
class Phases:
    """When a watch first showed each job in each phase."""

    seen: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def reached(self, name: str, phase: str) -> float:
        """Wait for it; the moment, as time.perf_counter() tells it."""
        async with asyncio.timeout(REACTION_SECONDS), self.news:
            await self.news.wait_for(lambda: (name, phase) in self.seen)
        return self.seen[name, phase]


async def batch_jobs(plane: ControlPlane) -> dict[str, JsonObject]:
    """The batch Jobs by the name of their FineTuneJob."""
    answer = await plane.user.get(path("jobs", NAMESPACE))
    return {job["metadata"]["ownerReferences"][0]["name"]: job for job in answer["items"]}


async def finish(plane: ControlPlane, jobs: dict[str, JsonObject]) -> None:
    """Let runs succeed as fast as it goes, and wait until the operator says so of all."""

    async def succeed(name: str) -> None:
        job = jobs[name]
        await _make_pod(plane, job)
        await _end_pod(plane, job)
        await _complete(plane, job)

    await at_once(succeed, jobs)

    async def all_done() -> bool:
        found = await phases(plane.user)
        return all(found[name] == "Succeeded" for name in jobs)

    await until(all_done, interval=0.5)


async def reaction_times(plane: ControlPlane, jobs: dict[str, JsonObject]) -> list[float]:
    """Whole lives, paced; seconds from each Job's Complete to its FineTuneJob's status."""
    async with watched(plane, NAMESPACE) as seen, asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[float]] = []
        for name, job in jobs.items():
            tasks.append(group.create_task(_live(plane, seen, name, job)))
            await asyncio.sleep(PACE_SECONDS)
    return [task.result() for task in tasks]


def percentile(values: list[float], percent: int) -> float:
    """A percentile; the median of one value is that value."""
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else values[0]


async def _live(plane: ControlPlane, seen: Phases, name: str, job: JsonObject) -> float:
    await _make_pod(plane, job)
    await plane.user.patch(_pod_status(job), pod_running())
    await seen.reached(name, "Running")
    await _end_pod(plane, job)
    completed = await _complete(plane, job)
    return await seen.reached(name, "Succeeded") - completed


async def _make_pod(plane: ControlPlane, job: JsonObject) -> None:
    await plane.user.send("POST", path("pods", NAMESPACE), pod(job, 0))


async def _end_pod(plane: ControlPlane, job: JsonObject) -> None:
    await plane.user.patch(_pod_status(job), pod_succeeded())


async def _complete(plane: ControlPlane, job: JsonObject) -> float:
    place = path("jobs", NAMESPACE, job["metadata"]["name"], "status")
    await plane.user.patch(place, job_complete())
    return time.perf_counter()


def _pod_status(job: JsonObject) -> str:
    return path("pods", NAMESPACE, pod(job, 0)["metadata"]["name"], "status")


@asynccontextmanager
async def watched(plane: ControlPlane, namespace: str) -> AsyncGenerator[Phases]:
    """When the jobs of a namespace get into their phases within the block."""
    phases_seen = Phases()
    place = path("finetunejobs", namespace)
    first = await plane.user.get(place + "?limit=1")

    async def follow() -> None:
        async for event in plane.user.watch(place, first["metadata"]["resourceVersion"]):
            now, body = time.perf_counter(), event["object"]
            key = body["metadata"].get("name", ""), (body.get("status") or {}).get("phase", "")
            async with phases_seen.news:
                phases_seen.seen.setdefault(key, now)
                phases_seen.news.notify_all()

    task = asyncio.create_task(follow())
    try:
        yield phases_seen
    finally:
        task.cancel()
        ended = await asyncio.gather(task, return_exceptions=True)
    # A watch that broke off is why nothing was seen.
    if isinstance(ended[0], Exception):
        raise ended[0]

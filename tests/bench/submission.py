"""Submission of many jobs: by the operator, and by a bare client as the floor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kubetune.settings import Settings

from .client import Client
from .control_plane import NAMESPACE, ControlPlane, until
from .objects import JOB_SPEC, manifest, path, submission
from .operator_process import OperatorProcess

CONCURRENCY = Settings().workers
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"


@dataclass(frozen=True)
class Submitted:
    """What a submission took, in seconds; ``cpu`` is the submitting process's own."""

    wall: float
    cpu: float


async def floor(plane: ControlPlane, namespace: str, jobs: int) -> Submitted:
    """The same writes by a bare client, each job's in order."""
    target = await plane.target()
    template = submission(plane.inputs, target, job_name(0), plane.install_id)

    async def submit(number: int) -> None:
        name = job_name(number)
        text = template.create.replace(template.name, name)
        created = await plane.user.create(path("finetunejobs", namespace), text)
        writes = template.for_job(name, namespace, created["metadata"]["uid"])
        client = plane.operator
        await client.patch(path("finetunejobs", namespace, name, "status"), writes.record)
        await client.patch(path("finetunejobs", namespace, name), writes.stamp)
        await client.send("POST", path("configmaps", namespace), writes.plan)
        await client.send("POST", path("jobs", namespace), writes.job)
        await client.patch(path("finetunejobs", namespace, name, "status"), writes.status)

    started, cpu = time.perf_counter(), time.process_time()
    await at_once(submit, range(jobs))
    return Submitted(time.perf_counter() - started, time.process_time() - cpu)


async def by_operator(plane: ControlPlane, operator: OperatorProcess, jobs: int) -> Submitted:
    """Create the objects and wait until every Job exists and every status says so."""
    cpu = operator.cpu_seconds()

    async def create(number: int) -> None:
        body = manifest("FineTuneJob", job_name(number), JOB_SPEC)
        await plane.user.send("POST", path("finetunejobs", NAMESPACE), body)

    started = time.perf_counter()
    await at_once(create, range(jobs))
    await until(lambda: _count_is(plane.user, jobs), interval=0.02)
    await until(lambda: _all_in(plane.user, "Queued", jobs), interval=0.02)
    wall = time.perf_counter() - started
    await operator.idle()
    return Submitted(wall, operator.cpu_seconds() - cpu)


async def at_once(
    work: Callable[[Any], Awaitable[None]], items: Iterable[Any], workers: int = CONCURRENCY
) -> None:
    """Work on all items, so many at the same time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())


async def phases(client: Client) -> dict[str, str]:
    """The phase of every job by name, as kubectl's table shows it."""
    place = path("finetunejobs", NAMESPACE) + "?includeObject=None"
    table = await client.get(place, accept=TABLE)
    columns = [column["name"] for column in table["columnDefinitions"]]
    name, phase = columns.index("Name"), columns.index("Phase")
    return {row["cells"][name]: row["cells"][phase] for row in table["rows"] or ()}


def job_name(number: int) -> str:
    return f"tickets-{number:05}"


async def _count_is(client: Client, jobs: int) -> bool:
    first = await client.get(path("jobs", NAMESPACE) + "?limit=1")
    left = first["metadata"].get("remainingItemCount", 0)
    return len(first["items"]) + left >= jobs


async def _all_in(client: Client, phase: str, jobs: int) -> bool:
    found = await phases(client)
    return len(found) == jobs and set(found.values()) == {phase}

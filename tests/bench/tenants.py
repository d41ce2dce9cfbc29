"""What one tenant feels of another: a flood of objects, or servers that never answer.

The other tenant's jobs all name a Model that isn't there. To make it wakes all of them at once and
gives each a new status, and to delete it does the same again.

Beside each job of the operator's a bare client sees one in another namespace and writes its status:
what the API server and the machine take of the time, and no operator could save.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kubetune.api import JsonObject

from .control_plane import (
    FLOOD_NAMESPACE,
    FLOORS,
    SILENT_NAMESPACE,
    TENANT_NAMESPACE,
    ControlPlane,
    until,
)
from .lives import Phases, percentile, watched
from .objects import manifest, path
from .operator_process import OperatorProcess
from .report import Figure
from .submission import at_once, job_name

SILENT = 60
"""Several times as many as there are workers."""
SAMPLES = 200
PACE_SECONDS = 0.1
BUDGET = 2.0
MISSING = {"modelRef": {"name": "missing"}, "datasetRef": {"name": "missing"}}
FIRST_PHASE = "Pending"


@dataclass(frozen=True)
class Times:
    """Seconds from the creation of a job to its first status, at the same moments."""

    operator: list[float]
    bare: list[float]
    """By the bare client."""

    def late(self) -> float:
        """The operator's 99th percentile."""
        return percentile(self.operator, 99)

    def note(self) -> str:
        """All of them, in words."""
        late, half = 1000 * self.late(), 1000 * percentile(self.operator, 50)
        bare, bare_half = 1000 * percentile(self.bare, 99), 1000 * percentile(self.bare, 50)
        return (
            f"p99 {late:.0f} ms, median {half:.0f} ms;"
            f" bare client p99 {bare:.0f} ms, median {bare_half:.0f} ms"
        )


async def measure(plane: ControlPlane, folder: Path, flood: int) -> list[Figure]:
    """From the creation of a job to its first status: quiet, and over that beside the others."""
    await at_once(lambda number: _create(plane, FLOOD_NAMESPACE, job_name(number)), range(flood))
    operator = OperatorProcess(
        plane.operator_kubeconfig,
        folder / "operator-tenants.log",
        TENANT_NAMESPACE,
        FLOOD_NAMESPACE,
        SILENT_NAMESPACE,
    )
    async with operator:
        quiet = await _reaction_times(plane, "quiet")
        async with _flooding(plane, operator):
            flooded = await _reaction_times(plane, "flooded")
        await operator.idle()
        async with silent_servers(plane):
            silent = await _reaction_times(plane, "silent")
    calm, pace = quiet.late(), f"{SAMPLES} jobs at {1 / PACE_SECONDS:.0f} a second"
    beside = f"the same beside {flood} objects"
    over_bare = flooded.late() / percentile(flooded.bare, 99)
    return [
        Figure(
            "a tenant's job to its status, p99", 1000 * calm, "ms", None, f"{quiet.note()}; {pace}"
        ),
        Figure(f"{beside}, over quiet", flooded.late() / calm, "", BUDGET, flooded.note()),
        Figure(f"{beside}, over a bare client beside them", over_bare, ""),
        Figure(
            f"the same beside {SILENT} silent servers, over quiet",
            silent.late() / calm,
            "",
            BUDGET,
            silent.note(),
        ),
    ]


async def _create(plane: ControlPlane, namespace: str, name: str) -> None:
    body = manifest("FineTuneJob", name, MISSING)
    await plane.user.send("POST", path("finetunejobs", namespace), body)


async def _reaction_times(plane: ControlPlane, prefix: str) -> Times:
    operator: list[asyncio.Task[float]] = []
    bare: list[asyncio.Task[float]] = []
    async with (
        watched(plane, TENANT_NAMESPACE) as seen,
        watched(plane, FLOORS[0]) as seen_bare,
        asyncio.TaskGroup() as group,
    ):
        for number in range(SAMPLES):
            name = f"{prefix}-{number}"
            operator.append(group.create_task(_reaction_time(plane, seen, name)))
            bare.append(group.create_task(_bare_reaction_time(plane, seen_bare, name)))
            await asyncio.sleep(PACE_SECONDS)
    return Times([task.result() for task in operator], [task.result() for task in bare])


async def _reaction_time(plane: ControlPlane, seen: Phases, name: str) -> float:
    await _create(plane, TENANT_NAMESPACE, name)
    # As the watch has shown it: the answer to the creation may be later.
    return await seen.reached(name, FIRST_PHASE) - await seen.reached(name, "")


async def _bare_reaction_time(plane: ControlPlane, seen: Phases, name: str) -> float:
    await _create(plane, FLOORS[0], name)
    created = await seen.reached(name, "")
    place = path("finetunejobs", FLOORS[0], name, "status")
    await plane.operator.patch(place, {"status": {"phase": FIRST_PHASE}})
    return await seen.reached(name, FIRST_PHASE) - created


@asynccontextmanager
async def _flooding(plane: ControlPlane, operator: OperatorProcess) -> AsyncGenerator[None]:
    """Within the block the operator always has objects of the other tenant to look at."""
    model = manifest("Model", "missing", {"source": {"huggingFace": {"repo": "nobody/nothing"}}})

    async def few_are_left() -> bool:
        return await operator.queue_length() < SILENT

    async def flood() -> None:
        while True:
            await plane.user.create(path("models", FLOOD_NAMESPACE), model)
            await until(few_are_left, interval=0.2)
            await plane.user.send("DELETE", path("models", FLOOD_NAMESPACE, "missing"))
            await until(few_are_left, interval=0.2)

    async def flooded() -> bool:
        return not await few_are_left()

    task = asyncio.create_task(flood())
    try:
        await until(flooded)
        yield
    finally:
        task.cancel()
        ended = await asyncio.gather(task, return_exceptions=True)
    if isinstance(ended[0], Exception):
        raise ended[0]


@asynccontextmanager
async def silent_servers(plane: ControlPlane) -> AsyncGenerator[None]:
    """Targets of a third tenant whose tracking servers take requests and don't answer.

    The operator runs, and has asked all of them when the block begins.
    """
    asked: set[bytes] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readline()
            asked.add(request.split(b"/")[1])
            await reader.read()
        finally:
            writer.close()

    async def all_asked() -> bool:
        return len(asked) == SILENT

    server = await asyncio.start_server(take, "127.0.0.1", 0, backlog=1024)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for number in range(SILENT):
            tracking: JsonObject = {"uri": f"http://127.0.0.1:{port}/{number}"}
            spec = {"kubernetes": {"image": "kubetune.local/runner"}, "tracking": tracking}
            target = manifest("ComputeTarget", f"silent-{number}", spec)
            await plane.user.create(path("computetargets", SILENT_NAMESPACE), target)
        await until(all_asked)
        yield
        await plane.user.send("DELETE", path("computetargets", SILENT_NAMESPACE))

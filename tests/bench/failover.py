"""How long nobody acts when the operator that holds the lease ends, by order or by a crash.

Two operators run, and the one that leads is ended while it waits for silent servers; a job that
is created at that moment gets its status from the other. Each has a host name of its own, as on
another machine: an operator sees at once that a process of its own machine is gone, and would not
wait for the lease to run out.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from .control_plane import SILENT_NAMESPACE, TENANT_NAMESPACE, ControlPlane
from .lives import percentile, watched
from .objects import manifest, path
from .operator_process import OperatorProcess
from .report import Figure
from .tenants import MISSING, silent_servers

ROUNDS = 10
BUDGETS = {"SIGKILL": 15.0, "SIGTERM": 3.0}


async def measure(plane: ControlPlane, folder: Path) -> list[Figure]:
    """Seconds from the signal until the other operator has given a new job its status."""
    figures: list[Figure] = []
    for signal, budget in BUDGETS.items():
        times = await _rounds(plane, folder, signal)
        late, half = percentile(times, 99), percentile(times, 50)
        note = f"median {half:.2f} s, {ROUNDS} times"
        figures.append(Figure(f"failover after {signal}, p99", late, "s", budget, note))
    return figures


async def _rounds(plane: ControlPlane, folder: Path, signal: str) -> list[float]:
    times: list[float] = []
    async with AsyncExitStack() as stack:
        seen = await stack.enter_async_context(watched(plane, TENANT_NAMESPACE))
        leader = await stack.enter_async_context(_operator(plane, folder, f"{signal}-0"))
        await stack.enter_async_context(silent_servers(plane))
        for number in range(1, ROUNDS + 1):
            host = f"{signal}-{number}"
            follower = await stack.enter_async_context(_operator(plane, folder, host, waits=True))
            begun = time.perf_counter()
            ending = asyncio.create_task(leader.end(kill=signal == "SIGKILL"))
            name = f"failover-{host.lower()}"
            body = manifest("FineTuneJob", name, MISSING)
            await plane.user.send("POST", path("finetunejobs", TENANT_NAMESPACE), body)
            times.append(await seen.reached(name, "Pending") - begun)
            await ending
            leader = follower
    return times


def _operator(
    plane: ControlPlane, folder: Path, host: str, *, waits: bool = False
) -> OperatorProcess:
    log, namespaces = folder / f"operator-{host}.log", (TENANT_NAMESPACE, SILENT_NAMESPACE)
    return OperatorProcess(plane.operator_kubeconfig, log, *namespaces, host=host, waits=waits)

"""What a FineTuneJob costs the API server, and what it would without its schema.

The same writes go to a copy of the kind as it is, and to one that any object fits. Both are of
groups of the bench's own, so that nobody watches them, and their rounds alternate: what else the
API server does in the time falls on both.
"""

from __future__ import annotations

import asyncio
import copy
import json
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from kubetune.api import JsonObject
from kubetune.api.crd import custom_resource_definition
from kubetune.api.kinds.table import BY_KIND

from .control_plane import NAMESPACE, ControlPlane, until
from .objects import Writes, submission
from .report import Figure

ROUNDS = 6
SETTLE_SECONDS = 10
"""After which the API server has done with a new definition, its documents included."""
WRITES = ("create", "first status", "stamp", "status")
STATUS_BUDGET, SIZE_BUDGET = 3.5, 60
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KIND = "FineTuneJob"


async def measure(plane: ControlPlane, objects: int, others: dict[str, Path]) -> list[Figure]:
    """API server's CPU for each write; ``others`` are files of other definitions of the kind."""
    now = custom_resource_definition(BY_KIND[KIND])
    definitions = {"now": now, "free": _free(now)}
    definitions |= {name: yaml.safe_load(path.read_text()) for name, path in others.items()}
    for name, definition in definitions.items():
        await plane.user.create(DEFINITIONS, _of_group(definition, _group(name)))
    for name in definitions:
        await until(lambda name=name: _is_served(plane, name))
    await asyncio.sleep(SETTLE_SECONDS)
    writes = submission(plane.inputs, await plane.target(), "measured", plane.install_id)
    spent: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    each = max(10, objects // ROUNDS)
    for number in range(ROUNDS):
        for name in definitions:
            taken = await _round(plane, name, writes, number, each)
            for write, milliseconds in taken.items():
                spent[name, write].append(milliseconds)
    # The first round warms up.
    cost = {key: statistics.fmean(values[1:]) for key, values in spent.items()}
    figures: list[Figure] = []
    for write in WRITES:
        beside = [f"{cost['free', write]:.2f} ms without a schema"]
        beside += [f"{cost[other, write]:.2f} ms with {other}" for other in others]
        budget = STATUS_BUDGET if write == "status" else None
        value = cost["now", write]
        figures.append(Figure(f"API server CPU, {write}", value, "ms", budget, ", ".join(beside)))
    total = {name: sum(cost[name, write] for write in WRITES) for name in definitions}
    note = f"{total['free']:.1f} ms without a schema"
    figures.append(Figure("API server CPU per submission", total["now"], "ms", None, note))
    sizes = {name: len(_compact(each)) / 1000 for name, each in definitions.items()}
    note = ", ".join(f"{sizes[other]:.1f} kB is {other}" for other in others)
    figures.append(Figure(f"definition of {KIND}", sizes["now"], "kB", SIZE_BUDGET, note))
    return figures


async def _round(
    plane: ControlPlane, name: str, writes: Writes, number: int, objects: int
) -> dict[str, float]:
    """Milliseconds of CPU for each write, by its name."""
    group = _group(name)
    place = f"/apis/{group}/v1alpha1/namespaces/{NAMESPACE}/{BY_KIND[KIND].plural}"
    names = [f"measured-{number}-{each}" for each in range(objects)]
    create = writes.create.replace('"kubetune.io/', f'"{group}/')

    async def made(each: str) -> None:
        await plane.user.send("POST", place, create.replace(writes.name, each))

    def patched(text: str, subresource: str = "") -> Callable[[str], Awaitable[Any]]:
        return lambda each: plane.user.patch(f"{place}/{each}{subresource}", text)

    steps = (made, patched(writes.record, "/status"), patched(writes.stamp))
    steps = (*steps, patched(writes.status, "/status"))
    process = psutil.Process(plane.api_server_pid)
    taken: dict[str, float] = {}
    for write, step in zip(WRITES, steps, strict=True):
        before = _cpu(process)
        for each in names:
            await step(each)
        taken[write] = 1000 * (_cpu(process) - before) / objects
    return taken


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _group(name: str) -> str:
    return f"{name}.bench.kubetune.io"


def _of_group(definition: JsonObject, group: str) -> JsonObject:
    made = copy.deepcopy(definition)
    made["spec"]["group"] = group
    made["spec"]["names"] |= {"shortNames": [], "categories": []}
    made["metadata"] = {"name": f"{made['spec']['names']['plural']}.{group}"}
    return made


def _free(definition: JsonObject) -> JsonObject:
    """The same kind without a schema: spec and status are kept as they are."""
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    made = copy.deepcopy(definition)
    schema = {"type": "object", "properties": {"spec": free, "status": free}}
    made["spec"]["versions"][0]["schema"] = {"openAPIV3Schema": schema}
    return made


def _compact(definition: JsonObject) -> str:
    return json.dumps(definition, separators=(",", ":"), ensure_ascii=False)


async def _is_served(plane: ControlPlane, name: str) -> bool:
    plural = BY_KIND[KIND].plural
    definition = await plane.user.get(f"{DEFINITIONS}/{plural}.{_group(name)}")
    conditions = (definition.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

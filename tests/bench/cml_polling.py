"""Many active runs in CML: how often the workspace is asked, and whether the operator answers."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune.api.kinds.status_types import status_of
from kubetune.decide.decision import condition_is
from kubetune_devcluster.cml import client_package
from kubetune_devcluster.cml.server import FOREVER, Script, Simulator

from .control_plane import CML_NAMESPACE, ControlPlane, until
from .lives import percentile
from .objects import manifest, path, ready_status
from .operator_process import OperatorProcess
from .report import Figure
from .submission import at_once, job_name

FASTEST, SLOWEST = 5, 15
"""Seconds of the target's poll bounds: half and a quarter of the defaults."""
WATCHED_SECONDS = 45
PROBES_PER_SECOND = 20
_RUNS_OF = re.compile(r"/jobs/([^/]+)/runs$")


async def measure(plane: ControlPlane, folder: Path, jobs: int) -> list[Figure]:
    """Figures with so many active runs, and the floor of the same operator without any."""
    package = await asyncio.to_thread(client_package.build)
    simulator = Simulator(folder / "cml")
    simulator.script_for = _endless
    await asyncio.to_thread(simulator.start)
    try:
        await _make_inputs(plane, simulator)
        operator = OperatorProcess(
            plane.operator_kubeconfig,
            folder / "operator-cml.log",
            CML_NAMESPACE,
            environment={"PYTHONPATH": str(package)},
        )
        async with operator:
            await until(lambda: _target_ready(plane), 60)
            floor = await _answer_times(operator, WATCHED_SECONDS / 3)
            await _submit(plane, jobs)
            # Until here runs are new and looked at often.
            began = time.time()
            busy = await _answer_times(operator, WATCHED_SECONDS)
            asked = [r for r in simulator.requests if r.time >= began]
    finally:
        await asyncio.to_thread(simulator.close)
    looks: dict[str, list[float]] = defaultdict(list)
    for request in asked:
        if request.operation == "list_job_runs" and (found := _RUNS_OF.search(request.path)):
            looks[found[1]].append(request.time)
    gaps = [b - a for times in looks.values() for a, b in pairwise(times)]
    total = sum(map(len, looks.values()))
    return [
        Figure(
            "looks at a run per tick",
            FASTEST / min(gaps, default=FASTEST),
            "",
            1.05,
            f"{jobs} active runs, {60 * total / WATCHED_SECONDS / jobs:.1f} looks a minute each",
        ),
        Figure(
            "other requests per minute",
            60 * (len(asked) - total) / WATCHED_SECONDS,
            "",
            60,
            "listings and probes of the workspace",
        ),
        Figure(
            "answer time with active runs over idle, p99",
            percentile(busy, 99) / percentile(floor, 99),
            "",
            3,
            f"{1000 * percentile(busy, 99):.0f} ms over {1000 * percentile(floor, 99):.0f} ms",
        ),
    ]


def _endless(*_: Any) -> Script:
    return Script(steps=(("ENGINE_RUNNING", FOREVER),))


async def _make_inputs(plane: ControlPlane, simulator: Simulator) -> None:
    key = base64.b64encode(simulator.api_key.encode()).decode()
    metadata = {"name": "key", "labels": {USE_LABEL: "target"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    await plane.user.create(
        f"/api/v1/namespaces/{CML_NAMESPACE}/secrets", secret | {"data": {"apiKey": key}}
    )
    target: JsonObject = {
        "cml": {
            "url": simulator.url,
            "project": simulator.project.id,
            "apiKeySecretRef": {"name": "key"},
            "runtime": {"kernel": "Python 3.11"},
            "poll": {"minSeconds": FASTEST, "maxSeconds": SLOWEST},
        },
        "tracking": {"uri": plane.cluster.mlflow_url},
    }
    rows = [{"prompt": "p", "completion": "c"}]
    here = {"computeTargetRef": {"name": "cml"}}
    for plural, made in (
        ("computetargets", manifest("ComputeTarget", "cml", target)),
        ("datasets", manifest("Dataset", "rows", {"source": {"inline": {"rows": rows}}, **here})),
        ("models", manifest("Model", "base", {"source": {"project": {"path": "base"}}, **here})),
    ):
        created = await plane.user.create(path(plural, CML_NAMESPACE), made)
        if plural != "computetargets":
            status = {"status": ready_status(created, plane.install_id)}
            place = path(plural, CML_NAMESPACE, made["metadata"]["name"], "status")
            await plane.user.patch(place, status)


async def _submit(plane: ControlPlane, jobs: int) -> None:
    spec = {
        "modelRef": {"name": "base"},
        "datasetRef": {"name": "rows"},
        "computeTargetRef": {"name": "cml"},
    }

    async def create(number: int) -> None:
        body = manifest("FineTuneJob", job_name(number), spec)
        await plane.user.send("POST", path("finetunejobs", CML_NAMESPACE), body)

    async def running() -> bool:
        found = await plane.user.get(path("finetunejobs", CML_NAMESPACE))
        phases = [(item.get("status") or {}).get("phase") for item in found["items"]]
        return phases == ["Running"] * jobs

    await at_once(create, range(jobs))
    await until(running, interval=1)


async def _target_ready(plane: ControlPlane) -> bool:
    body = await plane.user.get(path("computetargets", CML_NAMESPACE, "cml"))
    return condition_is(status_of(body), ConditionType.READY)


async def _answer_times(operator: OperatorProcess, seconds: float) -> list[float]:
    """How long the operator's loop takes to answer, asked at an even pace."""
    times: list[float] = []
    async with aiohttp.ClientSession() as session:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            started = time.perf_counter()
            async with session.get(operator.health_url) as response:
                await response.read()
            times.append(time.perf_counter() - started)
            await asyncio.sleep(1 / PROBES_PER_SECOND)
    return times

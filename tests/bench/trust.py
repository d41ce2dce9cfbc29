"""What signing and checks cost of a job's CPU, where jobs register versions in a real MLflow."""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.conditions import ConditionType
from kubetune.api.kinds.status_types import status_of
from kubetune.api.run import plan
from kubetune.decide.decision import condition_is

from .control_plane import TRUST_NAMESPACE, ControlPlane, until
from .metered import CHECKS, SIGNING, STORING
from .objects import job_complete, manifest, path, pod, pod_running, pod_succeeded, ready_status
from .operator_process import OperatorProcess
from .report import Figure
from .submission import at_once, job_name

BUDGET = 3.0
"""Percent of the operator's CPU for a job."""
FILES = 24
"""As many as an adapter has with its tokenizer and what MLflow adds."""
TARGET = {"computeTargetRef": {"name": "tracked"}}


async def measure(plane: ControlPlane, folder: Path, jobs: int) -> list[Figure]:
    """Shares of the CPU of so many whole lives, once all is imported and known."""
    async with _mlflow(folder) as uri:
        # Once: two threads that import it at the same time get in each other's way.
        await asyncio.to_thread(importlib.import_module, "mlflow.tracking")
        await _make_inputs(plane, uri)
        told = folder / "meter.json"
        log = folder / "operator-trust.log"
        operator = OperatorProcess(plane.operator_kubeconfig, log, TRUST_NAMESPACE, metered=told)
        async with operator:
            await until(lambda: _target_ready(plane), 60)
            await _live(plane, uri, range(2))
            await operator.idle()
            before, cpu_before = await _told(operator, told), operator.cpu_seconds()
            await _live(plane, uri, range(2, jobs + 2))
            await operator.idle()
            after, cpu = await _told(operator, told), operator.cpu_seconds() - cpu_before
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    shares = {
        part: 100 * sum(spent[name] for name in spent if name.startswith(part)) / cpu
        for part in (SIGNING, CHECKS, STORING)
    }
    dearest = sorted(spent, key=lambda name: -spent[name])[:3]
    most = ", ".join(f"{name} {1e6 * spent[name] / jobs:.0f} us" for name in dearest)
    parts = f"{SIGNING} {shares[SIGNING]:.2f}%, {CHECKS} {shares[CHECKS]:.2f}%"
    note = f"{parts}; most of it {most}; {1000 * cpu / jobs:.0f} ms of CPU a job, {jobs} jobs"
    share = shares[SIGNING] + shares[CHECKS]
    return [
        Figure("signing and checks of a job's CPU", share, "%", BUDGET, note),
        Figure("storing statements of a job's CPU", shares[STORING], "%", None, "one request each"),
    ]


async def _told(operator: OperatorProcess, told: Path) -> dict[str, float]:
    """What the meter says now."""
    await asyncio.to_thread(told.unlink, missing_ok=True)
    operator.signal(signal.SIGUSR1)

    async def written() -> bool:
        return await asyncio.to_thread(told.exists)

    await until(written, 10)
    return json.loads(await asyncio.to_thread(told.read_text))


@asynccontextmanager
async def _mlflow(folder: Path) -> AsyncGenerator[str]:
    """Address of a server of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri, home = f"http://127.0.0.1:{port}", folder / "mlflow"
    home.mkdir()
    command = [sys.executable, "-m", "kubetune_devcluster.mlflow_server"]
    command += ["--folder", str(home), "--port", str(port)]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=home)  # noqa: ASYNC220
    try:

        async def answers() -> bool:
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"{uri}/health") as response,
                ):
                    return response.status == 200
            except aiohttp.ClientError:
                return False

        await until(answers, 120, 0.5)
        yield uri
    finally:
        server.terminate()
        await asyncio.to_thread(server.wait)


async def _make_inputs(plane: ControlPlane, uri: str) -> None:
    target: JsonObject = {
        "kubernetes": {"image": "kubetune.local/runner"},
        "tracking": {"uri": uri},
    }
    rows = [{"prompt": "p", "completion": "c"}]
    hub = {"huggingFace": {"repo": "any/model"}}
    for plural, made in (
        ("computetargets", manifest("ComputeTarget", "tracked", target)),
        ("datasets", manifest("Dataset", "rows", {"source": {"inline": {"rows": rows}}, **TARGET})),
        ("models", manifest("Model", "base", {"source": hub, **TARGET})),
    ):
        created = await plane.user.create(path(plural, TRUST_NAMESPACE), made)
        if plural != "computetargets":
            status = {"status": ready_status(created, plane.install_id)}
            place = path(plural, TRUST_NAMESPACE, made["metadata"]["name"], "status")
            await plane.user.patch(place, status)


async def _target_ready(plane: ControlPlane) -> bool:
    body = await plane.user.get(path("computetargets", TRUST_NAMESPACE, "tracked"))
    return condition_is(status_of(body), ConditionType.READY)


async def _live(plane: ControlPlane, uri: str, numbers: range) -> None:
    """Whole lives of jobs, four at a time."""
    await at_once(lambda number: _life(plane, uri, number), numbers, workers=4)


async def _life(plane: ControlPlane, uri: str, number: int) -> None:
    """From the creation to the version; each job trains something else, so that none is adopted."""
    name = job_name(number)
    spec = {
        "modelRef": {"name": "base"},
        "datasetRef": {"name": "rows"},
        "hyperparameters": {"maxSteps": 100 + number},
        "output": {"registry": {"alias": "champion"}, "modelName": f"{name}-model"},
        **TARGET,
    }
    body = manifest("FineTuneJob", name, spec)
    await plane.user.send("POST", path("finetunejobs", TRUST_NAMESPACE), body)
    found: list[JsonObject] = []

    async def has_job() -> bool:
        answer = await plane.user.get(path("jobs", TRUST_NAMESPACE))
        found[:] = [
            job for job in answer["items"] if job["metadata"]["ownerReferences"][0]["name"] == name
        ]
        return bool(found)

    await until(has_job, 60, 0.2)
    (job,) = found
    run_key = job["metadata"]["labels"][names.RUN_KEY]
    run_id, model_id = await asyncio.to_thread(_track, uri, plane.install_id, run_key)
    first = pod(job, 0)
    place = path("pods", TRUST_NAMESPACE, first["metadata"]["name"], "status")
    await plane.user.send("POST", path("pods", TRUST_NAMESPACE), first)
    await plane.user.patch(place, pod_running())
    await until(lambda: _in_phase(plane, name, "Running"), 60, 0.2)
    digest = f"sha256:{number:064d}"
    summary = {
        "modelId": model_id,
        "runId": run_id,
        "filesDigest": digest,
        "files": {f"artifacts/adapter/file-{at}.json": digest for at in range(FILES)},
    }
    await plane.user.patch(place, pod_succeeded(summary))
    status = path("jobs", TRUST_NAMESPACE, job["metadata"]["name"], "status")
    await plane.user.patch(status, job_complete())
    await until(lambda: _in_phase(plane, name, "Succeeded"), 60, 0.2)


async def _in_phase(plane: ControlPlane, name: str, phase: str) -> bool:
    body = await plane.user.get(path("finetunejobs", TRUST_NAMESPACE, name))
    return (body.get("status") or {}).get("phase") == phase


def _track(uri: str, install_id: str, run_key: str) -> tuple[str, str]:
    """The tracked run and the logged model that the runner would leave; ids of both."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(uri)
    experiment = f"kubetune-{TRUST_NAMESPACE}"
    try:
        experiment_id = client.create_experiment(experiment)
    except MlflowException:
        experiment_id = client.get_experiment_by_name(experiment).experiment_id
    tags = {plan.TAG_RUN_KEY: run_key, plan.TAG_INSTALL: install_id, plan.TAG_PHASE: "training"}
    run = client.create_run(experiment_id, tags=tags)
    client.log_metric(run.info.run_id, plan.METRIC_STEP, 100)
    model = client.create_logged_model(experiment_id, source_run_id=run.info.run_id)
    client.finalize_logged_model(model.model_id, "READY")
    return run.info.run_id, model.model_id

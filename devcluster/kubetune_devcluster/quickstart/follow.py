"""Follow a FineTuneJob to its end, as ``kubetune quickstart`` shows it."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from kubetune_devcluster import commands
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.quickstart.start import NAMESPACE, Object, Report, finished, object_path

INTERVAL_SECONDS = 0.5
PATIENCE_SECONDS = 300
"""An input that isn't ready, or a pod that isn't started, for so long will hardly become so."""
RUNNING_PATIENCE_SECONDS = 1800
"""A run may have to download a model before it shows progress."""

_REFERENCES = {"datasetRef": "datasets", "modelRef": "models", "promptRef": "prompttemplates"}


def follow(cluster: LocalCluster, job: Object, report: Report) -> Object:
    """Report each change of the job until it is Complete, and return it.

    Raises LocalClusterError when the job or an input of it fails, disappears or stands still;
    the message says why and where the logs are.
    """
    client, name = cluster.client(), job["metadata"]["name"]
    seen, moved_at = "", time.monotonic()
    while True:
        current = client.read(object_path(job))
        if current is None:
            _check_control_plane(cluster)
            raise LocalClusterError(f"FineTuneJob {name} was deleted while it was followed")
        status = current.get("status") or {}
        if finished(current):
            if status["phase"] == "Succeeded":
                report(name, "ready")
                return current
            raise LocalClusterError(_failure(cluster, current))
        report(name, describe(status))
        # Messages change with every try again; only phase and progress mean that it moves.
        mark = json.dumps([status.get("phase"), status.get("progress"), status.get("counts")])
        running = status.get("phase") == "Running"
        patience = RUNNING_PATIENCE_SECONDS if running else PATIENCE_SECONDS
        if mark != seen:
            seen, moved_at = mark, time.monotonic()
        elif time.monotonic() - moved_at > patience:
            raise LocalClusterError(
                f"FineTuneJob {name} has not moved for {patience} s; it says:"
                f" {describe(status)}\n{_where_logs_are(cluster, job)}"
            )
        _check_inputs(cluster, current)
        time.sleep(INTERVAL_SECONDS)


def describe(status: Object) -> str:
    """One line: phase, and what is known of progress or of what it waits for."""
    phase = status.get("phase") or "Pending"
    progress: dict[str, Any] = status.get("progress") or {}
    if phase != "Running" or not progress:
        return f"{phase}: {_condition(status, 'Ready').get('message', 'waiting for the operator')}"
    parts = [progress.get("stage") or "starting"]
    if progress.get("stage") == "training":
        parts.append(f"{progress.get('percent', 0)} %")
        if (loss := progress.get("loss")) is not None:
            parts.append(f"loss {loss}")
        if eta := progress.get("eta"):
            parts.append(f"{eta} left")
    return f"{phase}: {', '.join(parts)}"


def _check_inputs(cluster: LocalCluster, job: Object) -> None:
    """An input that can't become ready keeps the job waiting for its user; here nobody comes."""
    for reference, plural in _REFERENCES.items():
        name = (job["spec"].get(reference) or {}).get("name")
        found = cluster.client().read(object_path(plural, name)) if name else None
        stalled = _condition((found or {}).get("status") or {}, "Stalled")
        if found and stalled.get("status") == "True":
            raise LocalClusterError(
                f"{found['kind']} {name} failed: {stalled['message']}\n"
                + _where_logs_are(cluster, job)
            )


def _check_control_plane(cluster: LocalCluster) -> None:
    status = cluster.status()
    if not status.running:
        gone = [part.name for part in status.components if part.state != "running"]
        raise LocalClusterError(
            f"{', '.join(gone)} stopped; run: {commands.kubetune(cluster.home, 'up')}"
        )


def _failure(cluster: LocalCluster, job: Object) -> str:
    status, name = job["status"], job["metadata"]["name"]
    failure = status.get("failure") or {}
    reason = failure.get("reason", status["phase"])
    message = failure.get("message") or _condition(status, "Ready").get("message", "")
    return f"FineTuneJob {name} failed, {reason}: {message}\n{_where_logs_are(cluster, job)}"


def _where_logs_are(cluster: LocalCluster, job: Object) -> str:
    name = job["metadata"]["name"]
    home = cluster.home
    runs = commands.kubetune(home, "logs", "-n", NAMESPACE, f"ftj/{name}")
    if "computeTargetRef" in job["spec"]:
        runs = f"cat {shlex.quote(f'{home}/cml/runs')}/*/output.log"
    return (
        f"Look at: {commands.kubectl(home, 'describe', 'ftj', name, '-n', NAMESPACE)}\n"
        f"         {runs}\n"
        f"         {commands.kubetune(home, 'logs', 'operator')}"
    )


def _condition(status: Object, kind: str) -> Object:
    return next((c for c in status.get("conditions") or () if c["type"] == kind), {})

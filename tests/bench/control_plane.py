"""The bench's control plane: a local cluster whose API server keeps an audit log.

Once the namespaces are there, controller manager and scheduler are stopped: the bench plays
the Job controller and the node itself, so that no run trains and no CPU goes elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api import API_VERSION, JsonObject
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.processes import Process

from .client import Client
from .objects import TARGET, claim, inputs, path, ready_status

NAMESPACE = "bench"
CML_NAMESPACE = "bench-cml"
TENANT_NAMESPACE = "bench-tenant"
FLOOD_NAMESPACE, SILENT_NAMESPACE = "bench-flood", "bench-silent"
TRUST_NAMESPACE = "bench-trust"
FLOORS = ("floor-1", "floor-2")
OPERATOR_USER = "kubetune-operator"
TARGET_PATH = f"/apis/{API_VERSION}/clustercomputetargets/{TARGET}"
DEADLINE_SECONDS = 600

AUDIT_POLICY = f"""\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: Metadata
    users: [{OPERATOR_USER}]
    verbs: [get, list, create, update, patch, delete, deletecollection]
  - level: None
"""


@dataclass
class ControlPlane:
    """A running API server with the bench's inputs."""

    cluster: LocalCluster
    audit_log: Path
    user: Client
    """Who applies manifests, and plays the Job controller."""
    operator: Client
    """The operator's own identity, for the floor."""
    inputs: dict[str, JsonObject]
    """Ready Dataset, Model and PromptTemplate by kind."""
    install_id: str

    @property
    def operator_kubeconfig(self) -> Path:
        return self.cluster.home / "pki" / "operator.kubeconfig"

    @property
    def api_server_pid(self) -> int:
        """Its process, whose CPU can be asked for."""
        pid = Process("kube-apiserver", self.cluster.home / "run", self.cluster.home / "logs").pid()
        if pid is None:
            raise RuntimeError("the API server has ended")
        return pid

    async def target(self) -> JsonObject:
        return await self.user.get(TARGET_PATH)

    def audit_position(self) -> int:
        """Where the audit log ends now."""
        return self.audit_log.stat().st_size if self.audit_log.exists() else 0

    def requests_since(self, position: int) -> Counter[tuple[str, str]]:
        """The operator's requests by verb and resource, watches aside.

        The lease's aside, too: two every other second, however much or little there is to do.
        """
        with self.audit_log.open() as log:
            log.seek(position)
            entries = [json.loads(line) for line in log]
        counts: Counter[tuple[str, str]] = Counter()
        for entry in entries:
            named = entry.get("objectRef") or {}
            if named.get("resource") == "leases":
                continue
            parts = (named.get("resource"), named.get("subresource"))
            resource = "/".join(part for part in parts if part) or entry["requestURI"]
            counts[entry["verb"], resource] += 1
        return counts


@asynccontextmanager
async def control_plane(home: Path) -> AsyncGenerator[ControlPlane]:
    """Start it in an empty folder, and stop it in the end."""
    audit_log, policy = home / "audit.log", home / "audit-policy.yaml"
    policy.write_text(AUDIT_POLICY)
    flags = [f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}"]
    cluster = LocalCluster(home / "cluster", {"mlflow"}, flags={"kube-apiserver": flags})
    try:
        await asyncio.to_thread(cluster.up)
        operator_kubeconfig = cluster.home / "pki" / "operator.kubeconfig"
        user, operator = Client(cluster.kubeconfig), Client(operator_kubeconfig)
        try:
            tenants = TENANT_NAMESPACE, FLOOD_NAMESPACE, SILENT_NAMESPACE, TRUST_NAMESPACE
            for namespace in (NAMESPACE, CML_NAMESPACE, *tenants, *FLOORS):
                await _make_namespace(user, namespace)
            await asyncio.to_thread(_stop_controllers, cluster)
            system = await user.get("/api/v1/namespaces/kube-system")
            install_id = system["metadata"]["uid"]
            made = await _make_inputs(user, install_id)
            yield ControlPlane(cluster, audit_log, user, operator, made, install_id)
        finally:
            await user.close()
            await operator.close()
    finally:
        await asyncio.to_thread(cluster.down, True)


async def until(question: Any, seconds: float = DEADLINE_SECONDS, interval: float = 0.05) -> None:
    """Ask until the answer is true. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not await question():  # noqa: ASYNC110 - the answer is another process's
            await asyncio.sleep(interval)


async def _make_namespace(user: Client, name: str) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await user.create("/api/v1/namespaces", body)

    async def has_account() -> bool:
        accounts = await user.get(path("serviceaccounts", name))
        return bool(accounts["items"])

    await until(has_account, 60)


def _stop_controllers(cluster: LocalCluster) -> None:
    for name in ("kube-controller-manager", "kube-scheduler"):
        process = Process(name, cluster.home / "run", cluster.home / "logs")
        process.stop(signal.SIGTERM, 20)()


async def _make_inputs(user: Client, install_id: str) -> dict[str, JsonObject]:
    made: dict[str, JsonObject] = {}
    await user.create(path("persistentvolumeclaims", NAMESPACE), claim())
    for plural, manifest in inputs():
        created = await user.create(path(plural, NAMESPACE), manifest)
        status = {"status": ready_status(created, install_id)}
        place = path(plural, NAMESPACE, manifest["metadata"]["name"], "status")
        made[manifest["kind"]] = json.loads(await user.patch(place, status))
    return made

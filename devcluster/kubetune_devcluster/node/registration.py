"""The Node object, its lease, and the heartbeat that keeps the node usable."""

import asyncio
import logging
import os
import platform
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .client import STRATEGIC, UNREACHABLE, ApiError, Client, Object
from .gpus import RESOURCE
from .status import now

logger = logging.getLogger(__name__)

ROLE = "kubetune.io/process-node"
"""Label and taint key: only pods that tolerate it come here."""
_HEARTBEAT = 10
_STATUS_EVERY = 3
"""Heartbeats between writes of the whole status, which also notice that the Node was deleted."""
_MAX_PODS = 250


@dataclass
class Registration:
    """Registers the node and keeps it registered."""

    client: Client
    name: str
    address: str
    port: int
    view: str
    resources: dict[str, str]
    ready: bool = True

    async def register(self) -> None:
        """Make the Node, or update the status of the one that is there; then the lease."""
        try:
            made = await self.client.create("/api/v1/nodes", self._node())
        except ApiError as error:
            if error.status != 409:
                raise
            # A newer start: port, resources and view may differ from the last one's.
            made = await self.client.patch(f"/api/v1/nodes/{self.name}", self._labels())
            await self._write_status()
        await self._make_lease(made["metadata"]["uid"])

    async def keep(self) -> None:
        """Renew the lease for ever; register again when the Node or the lease is gone."""
        beat = 0
        while True:
            await asyncio.sleep(_HEARTBEAT)
            beat += 1
            try:
                await self.client.patch(self._lease_path(), {"spec": self._lease_spec()})
                if beat % _STATUS_EVERY == 0:
                    await self._write_status()
            except ApiError as error:
                logger.warning("heartbeat: %s", error)
                if error.status == 404:
                    await self._register_again()
            except UNREACHABLE as error:
                logger.warning("heartbeat: %s", error or type(error).__name__)

    async def leave(self) -> None:
        """Report the node as not ready; no more heartbeats may follow."""
        self.ready = False
        try:
            async with asyncio.timeout(5):
                await self._write_status()
        except (ApiError, *UNREACHABLE) as error:
            logger.warning("could not report NotReady: %s", error or type(error).__name__)

    async def _register_again(self) -> None:
        try:
            await self.register()
        except (ApiError, *UNREACHABLE) as error:
            logger.warning("registering again: %s", error or type(error).__name__)

    async def _write_status(self) -> None:
        body = {"status": self._status()}
        await self.client.patch(f"/api/v1/nodes/{self.name}/status", body, STRATEGIC)

    async def _make_lease(self, uid: str) -> None:
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": uid}
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "ownerReferences": [owner]},
            "spec": self._lease_spec(),
        }
        try:
            await self.client.create(self._lease_path().rpartition("/")[0], lease)
        except ApiError as error:
            if error.status != 409:
                raise
            patch = {
                "metadata": {"ownerReferences": [owner]},
                "spec": self._lease_spec(),
            }
            await self.client.patch(self._lease_path(), patch)

    def _lease_path(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"

    def _lease_spec(self) -> Object:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": self.name,
            "leaseDurationSeconds": 40,
            "renewTime": renewed,
        }

    def _labels(self) -> Object:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
        labels = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": sys.platform,
            "kubernetes.io/arch": machine or platform.machine(),
            ROLE: "true",
            "kubetune.io/mounts": self.view,
        }
        warning = (
            "Pods are local processes of one user: user ids, read-only roots, capabilities and "
            "memory limits are accepted and not enforced."
        )
        return {
            "metadata": {
                "labels": labels,
                "annotations": {"kubetune.io/isolation": warning},
            }
        }

    def _node(self) -> Object:
        node: Object = {"apiVersion": "v1", "kind": "Node", **self._labels()}
        node["metadata"]["name"] = self.name
        node["spec"] = {"taints": [{"key": ROLE, "value": "true", "effect": "NoSchedule"}]}
        node["status"] = self._status()
        return node

    def _status(self) -> Object:
        conditions = [
            {
                "type": kind,
                "status": "False",
                "reason": f"No{kind}",
                "lastHeartbeatTime": now(),
            }
            for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")
        ]
        ready = {"type": "Ready", "lastHeartbeatTime": now()}
        if self.ready:
            ready |= {
                "status": "True",
                "reason": "ProcessNodeReady",
                "message": "runs pods",
            }
        else:
            ready |= {
                "status": "False",
                "reason": "ProcessNodeStopped",
                "message": "was stopped",
            }
        return {
            "capacity": self.resources,
            "allocatable": self.resources,
            "addresses": [
                {"type": "InternalIP", "address": self.address},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
            "conditions": [*conditions, ready],
            "nodeInfo": {
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
                "kernelVersion": platform.release(),
                "osImage": platform.platform(terse=True),
                "containerRuntimeVersion": "kubetune-process://1",
                "kubeletVersion": "v1.36.0-kubetune",
                "kubeProxyVersion": "",
                "operatingSystem": sys.platform,
                "architecture": platform.machine(),
            },
        }


def machine_resources(
    home: Path, cpus: int | None, memory: int | None, gpus: int
) -> dict[str, str]:
    """The node's capacity as Kubernetes quantities; CPUs and bytes that aren't given are found."""
    if memory is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = os.statvfs(home)
    return {
        "cpu": str(cpus or os.cpu_count() or 1),
        "memory": f"{memory // 1024}Ki",
        "pods": str(_MAX_PODS),
        "ephemeral-storage": f"{disk.f_frsize * disk.f_blocks // 1024}Ki",
        RESOURCE: str(gpus),
    }

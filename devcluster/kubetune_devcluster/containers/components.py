"""The processes of a containerd node: their command lines."""

import os
import signal
import sys

from kubetune_devcluster.components import Component
from kubetune_devcluster.containers.layout import (
    API_ADDRESS,
    LABEL,
    NODE_ADDRESS,
    NODE_NAME,
    NodeLayout,
)
from kubetune_devcluster.containers.requirements import search_path

NAMES = ("containerd", "gateway", "coredns", "kubelet")


def all_of(layout: NodeLayout) -> list[Component]:
    """Them in the order of their start."""
    return [_containerd(layout), _gateway(layout), _coredns(layout), _kubelet(layout)]


def _containerd(layout: NodeLayout) -> Component:
    programs = layout.runtime_programs
    return Component(
        name="containerd",
        command=[programs / "containerd", "--config", layout.folder / "containerd.toml"],
        # It finds its shim beside itself, and runc on the machine.
        environment=_environment() | {"PATH": f"{programs}{os.pathsep}{search_path()}"},
        address=f"unix://{layout.socket}",
        stop_grace=10,
        # Shims end with their pods; one that is left is killed after the grace.
        stops_children=True,
    )


def _gateway(layout: NodeLayout) -> Component:
    ports = layout.cluster.ports
    return Component(
        name="gateway",
        command=[
            *(sys.executable, "-m", "kubetune_devcluster.containers.gateway"),
            *("--device", layout.device, "--allow", str(layout.pods)),
            *("--from-pods", f"{API_ADDRESS}:443", str(ports["kube-apiserver"])),
            *("--from-machine", f"{NODE_ADDRESS}:{ports['mlflow']}", str(ports["mlflow"])),
        ],
        environment={**os.environ, "PYTHONUNBUFFERED": "1"},
        address=f"https://{API_ADDRESS}",
        stop_grace=5,
    )


def _coredns(layout: NodeLayout) -> Component:
    return Component(
        name="coredns",
        command=[layout.runtime_programs / "coredns", "-conf", layout.folder / "Corefile"],
        environment=_environment(),
        address=f"dns://{layout.gateway}",
        health=f"http://127.0.0.1:{layout.cluster.ports['coredns']}/ready",
    )


def _kubelet(layout: NodeLayout) -> Component:
    cluster = layout.cluster
    return Component(
        name="kubelet",
        command=[
            layout.kubelet_programs / "kubelet",
            f"--config={layout.folder / 'kubelet.yaml'}",
            f"--kubeconfig={cluster.kubeconfig('kubelet')}",
            f"--root-dir={layout.folder / 'kubelet'}",
            f"--cert-dir={layout.folder / 'kubelet'}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={NODE_ADDRESS}",
            f"--node-labels={LABEL}=true",
        ],
        environment=_environment() | {"PATH": search_path()},
        address=f"https://{NODE_ADDRESS}:{cluster.ports['kubelet']}",
        health=f"http://127.0.0.1:{cluster.ports['kubelet-health']}/healthz",
        stop_signal=signal.SIGTERM,
        stop_grace=10,
    )


def _environment() -> dict[str, str]:
    """The Go servers need nothing of the caller's environment, which may hold credentials."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}

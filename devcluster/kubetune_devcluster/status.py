"""What a local cluster reports about itself, for people and as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune_devcluster.components import CONTROL_PLANE, Component
from kubetune_devcluster.processes import Process


@dataclass(frozen=True)
class ComponentStatus:
    """One component; ``state`` is running, stopped, or crashed (gone without having been told)."""

    name: str
    state: str
    pid: int | None
    address: str  # URL, empty unless it runs and has one
    rss_bytes: int
    log: Path


@dataclass(frozen=True)
class ClusterStatus:
    """The whole cluster."""

    home: Path
    kubeconfig: Path
    kubernetes_version: str
    components: list[ComponentStatus]

    @property
    def running(self) -> bool:
        """True when the control plane runs and nothing has crashed.

        An add-on that was not started (``up --without``) does not count.
        """
        states = {component.name: component.state for component in self.components}
        return "crashed" not in states.values() and all(
            states[name] == "running" for name in CONTROL_PLANE
        )

    def to_json(self) -> dict[str, Any]:
        """A document with stable keys; memory in bytes."""
        return {
            "home": str(self.home),
            "kubeconfig": str(self.kubeconfig),
            "kubernetesVersion": self.kubernetes_version,
            "running": self.running,
            "components": [
                {
                    "name": component.name,
                    "state": component.state,
                    "pid": component.pid,
                    "address": component.address or None,
                    "rssBytes": component.rss_bytes,
                    "log": str(component.log),
                }
                for component in self.components
            ],
        }


def component_status(component: Component, process: Process) -> ComponentStatus:
    """The state of one component from its process record."""
    pid = process.pid()
    state = "running" if pid is not None else "crashed" if process.crashed() else "stopped"
    return ComponentStatus(
        name=component.name,
        state=state,
        pid=pid,
        address=component.address if pid is not None else "",
        rss_bytes=process.rss_bytes(),
        log=process.log,
    )

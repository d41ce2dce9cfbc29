"""Starting components and waiting until they are ready."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from kubetune_devcluster import components
from kubetune_devcluster.components import Component
from kubetune_devcluster.containers.layout import NODE_NAME as CONTAINERD_NODE_NAME
from kubetune_devcluster.control_plane import access
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.home import Home
from kubetune_devcluster.processes import Process, wait_until

# Components whose process is a Node, with its name.
NODES = {components.NODE_NAME: components.NODE_NAME, "kubelet": CONTAINERD_NODE_NAME}
START_TIMEOUT = 120  # seconds for one component; two busy cores need a tenth of it

Report = Callable[[str, str], None]  # (subject, what it does now)


class Starter:
    """Starts the components of a cluster; ``flags`` are added to command lines, by their names."""

    def __init__(self, home: Home, flags: Mapping[str, Sequence[str]]) -> None:
        self._home = home
        self._flags = flags

    def start(self, wanted: list[Component], started: list[Component], report: Report) -> None:
        """Start those that don't run yet, and note them in ``started``."""
        for component in wanted:
            process = self._home.process(component.name)
            if process.pid() is None:
                report(component.name, "starting")
                started.append(component)
                command = [*component.command, *self._flags.get(component.name, ())]
                process.start(command, component.environment, cwd=self._home.path)

    def wait_ready(self, component: Component, client: access.Client, report: Report) -> None:
        """Return when a component answers, or a node is ready; else raises LocalClusterError."""
        if name := NODES.get(component.name):
            process = self._home.process(component.name)
            since = process.record.stat().st_mtime
            self.wait(component.name, lambda: _node_ready(client, name, since), process)
        elif component.health:
            self.wait(
                component.name,
                lambda: client.status(component.health) == 200,
                self._home.process(component.name),
            )
        report(component.name, "ready")

    def wait(self, name: str, ready: Callable[[], bool], process: Process) -> None:
        """Return when ``ready`` is true; LocalClusterError when the process ends or takes long."""

        def settled() -> bool:
            return ready() or process.pid() is None

        in_time = wait_until(settled, START_TIMEOUT)
        if process.pid() is None or not in_time:
            problem = "was not ready in time" if process.pid() else "ended right after its start"
            raise LocalClusterError(
                f"{name} {problem}; its log is {process.log} and ends with:\n{process.log_tail()}"
            )


def _node_ready(client: access.Client, name: str, since: float) -> bool:
    """True when the node ``name`` is ready and said so after ``since`` (seconds since the epoch).

    A node that was killed stays Ready in the API server for a while.
    """
    lease = client.read(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
    if not lease or datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp() < since:
        return False
    node = client.read(f"/api/v1/nodes/{name}")
    conditions = node["status"].get("conditions", []) if node else []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

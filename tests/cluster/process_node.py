"""A process node that tests start, kill and start again."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from api_client import ApiClient
from kubetune_devcluster import components
from kubetune_devcluster.cluster import LocalCluster
from support import eventually

TOLERATIONS = [{"key": "kubetune.io/process-node", "operator": "Exists"}]
IMAGE = "kubetune.local/runner:test"
ROOT = "${KUBETUNE_ROOT:-}"
"""In a shell: where the pod's mounts are, in both views."""
PATHS = {
    "pod": "/api/v1/namespaces/default/pods",
    "job": "/apis/batch/v1/namespaces/default/jobs",
    "node": "/api/v1/nodes",
}


class NodeUnderTest:
    """A process node that the tests start, kill and start again."""

    def __init__(self, cluster: LocalCluster, home: Path, view: str) -> None:
        self.cluster, self.home, self.view = cluster, home, view
        self.process: subprocess.Popen[bytes] | None = None
        # Asked again and again: a kubectl for each question would be most of the work.
        self._api = ApiClient(cluster.kubeconfig, home.parent)

    def start(self) -> None:
        layout = components.Layout(self.cluster.home, Path())
        command = [str(part) for part in components.process_node(layout).command]
        command[command.index("--home") + 1] = str(self.home)
        log = self.home.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [*command, "--mounts", self.view, "--gpus", "2"], stdout=log, stderr=log
        )
        port = self.node().get("status", {}).get("daemonEndpoints")

        def registered() -> bool:
            assert self.process
            assert self.process.poll() is None, self.home.with_suffix(".log").read_text()
            return self.ready() == "True" and self.node()["status"]["daemonEndpoints"] != port

        eventually(registered, 30)

    def node(self) -> dict[str, Any]:
        status, body = self._api.request("GET", f"{PATHS['node']}/process-node")
        return body if status == 200 else {}

    def ready(self) -> str:
        conditions = self.node().get("status", {}).get("conditions", ())
        return next((c["status"] for c in conditions if c["type"] == "Ready"), "")

    def stop(self, number: signal.Signals) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(60)

    # Pods.

    def run(self, name: str, *command: str, container: Any = None, **spec: Any) -> None:
        """Create a pod named `name`; `container` and `spec` add to its only container and it."""
        main = {"name": "main", "image": IMAGE, "command": list(command), **(container or {})}
        plain = {"restartPolicy": "Never", "tolerations": TOLERATIONS, "containers": [main]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
        status, answer = self._api.request("POST", PATHS["pod"], {**pod, "spec": {**plain, **spec}})
        assert status == 201, answer

    def apply(self, *objects: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(items))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        status, body = self._api.request("GET", f"{PATHS[kind]}/{name}")
        assert status == 200, body
        return body

    def pods(self, selector: str = "") -> dict[str, Any]:
        """The list of pods."""
        status, body = self._api.request("GET", f"{PATHS['pod']}?labelSelector={selector}")
        assert status == 200, body
        return body

    def status(self, name: str) -> dict[str, Any]:
        return self.get("pod", name)["status"]

    def ended(self, name: str, seconds: float = 30) -> dict[str, Any]:
        """The pod's status once it is finished."""

        def finished() -> dict[str, Any]:
            status = self.status(name)
            return status if status["phase"] in ("Succeeded", "Failed") else {}

        return eventually(finished, seconds)

    def running(self, name: str) -> str:
        """The pod's uid once it is running."""
        eventually(lambda: self.status(name)["phase"] == "Running", 30)
        return self.get("pod", name)["metadata"]["uid"]

    def logs(self, name: str, *options: str) -> str:
        return self.cluster.kubectl("logs", name, *options)


def state(status: dict[str, Any]) -> dict[str, Any]:
    """The state of the only container; empty before the node has reported any."""
    statuses = status.get("containerStatuses")
    return statuses[0]["state"] if statuses else {}


def processes_with(text: str) -> list[int]:
    """Processes that have the text in their command line or environment."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            data = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in data:
            found.append(int(process.name))
    return found

"""Start and stop of one cluster's containerd node."""

import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubetune_devcluster import objects
from kubetune_devcluster.components import Component, Layout
from kubetune_devcluster.containers import (
    cleanup,
    components,
    configuration,
    network,
    requirements,
)
from kubetune_devcluster.containers.layout import NODE_NAME, NodeLayout, tracking_url
from kubetune_devcluster.control_plane import build
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.processes import Process, wait_until

MANIFESTS = Path(__file__).parent / "manifests"
EVICTION_SECONDS = 150  # a training has 120 s to save a checkpoint
NAMES = components.NAMES

Report = Callable[[str, str], None]


class ContainerdNode:
    """The node of the cluster with this layout; ``process`` finds a component's process."""

    def __init__(self, layout: Layout, process: Callable[[str], Process]) -> None:
        self._cluster = layout
        self._process = process
        self._folder = layout.home / "containers"

    @property
    def exists(self) -> bool:
        """True when it was started and not stopped, so that there may be something to stop."""
        return self._number_file.exists()

    @property
    def known(self) -> bool:
        """True when this cluster has or had this node."""
        return self._process("kubelet").log.exists()

    def require(self) -> None:
        """Raises LocalClusterError when this machine can't run the node."""
        requirements.require(self._cluster.home)

    def prepare(self, cache: Path, report: Report) -> None:
        """Build the programs, take a network of this machine, and write the configuration."""
        links = {"kubelet": build.KUBELET, "runtime": build.CONTAINER_RUNTIME}
        for name, module in links.items():
            made = build.programs(module, cache, lambda text, name=name: report(name, text))
            self._link(name, made)
        if self._process("containerd").pid() is None and self.exists:
            self.clean()  # it died, or the machine did
        number = network.claim(self._cluster.home, self._number() or None)
        self._number_file.write_text(f"{number}\n")
        try:
            cleanup.make_control_groups(self.layout().control_group)
            configuration.write(self.layout())
        except BaseException:
            if self._process("containerd").pid() is None:
                self.clean()
            raise

    def layout(self) -> NodeLayout:
        programs = self._folder / "programs"
        return NodeLayout(self._cluster, programs / "kubelet", programs / "runtime", self._number())

    def components(self) -> list[Component]:
        """Its processes in the order of their start; the kubelet, which needs all, is last."""
        return components.all_of(self.layout())

    def manifests(self) -> str:
        """The objects that make the cluster use the node."""
        values = {
            "TRACKING_URL": tracking_url(self._cluster),
            "MLFLOW_URL": self._cluster.url("mlflow", "http"),
        }
        return objects.filled(MANIFESTS, values)

    def serves(self) -> bool:
        """True when containerd answers."""
        return self._ctr("version").returncode == 0

    def import_images(self) -> None:
        """Give containerd the node's images."""
        for archive in sorted((self._folder / "images").glob("*.tar")):
            result = self._ctr("images", "import", "--local", str(archive))
            if result.returncode:
                raise LocalClusterError(f"containerd refuses {archive}: {result.stderr.strip()}")

    def evict_pods(self, kubectl: Callable[..., str], report: Report) -> None:
        """Ask all pods to end, as before maintenance: their Jobs count no failure.

        Does nothing while a part is down that this needs; the pods are killed then.
        """
        needed = ("kube-apiserver", "kube-controller-manager", "containerd", "kubelet")
        if any(self._process(name).pid() is None for name in needed):
            return
        with contextlib.suppress(LocalClusterError):  # what stays is killed
            kubectl("cordon", NODE_NAME)
            pods = self._running_pods(kubectl)
            if pods:
                report("kubelet", f"evicting pods: {len(pods)}")
            for pod in pods:
                self._evict(kubectl, pod["metadata"])
            wait_until(lambda: not self._running_pods(kubectl), EVICTION_SECONDS, interval=0.3)

    def clean(self) -> None:
        """Take away what the stopped servers left on this machine. State stays in the folder."""
        if not self.exists:
            return
        layout = self.layout()
        sockets = cleanup.shim_sockets(self._folder)
        cleanup.kill_pods(layout.control_group, layout.socket)
        cleanup.unmount(self._folder)
        cleanup.remove_control_groups(layout.control_group)
        network.remove(self._cluster.home, layout.number)
        cleanup.remove_traces(self._folder, layout.device, sockets)
        self._number_file.unlink()

    def kill_pods(self) -> None:
        """End what is left of the pods, so that containerd's shims can end."""
        if self.exists:
            layout = self.layout()
            cleanup.kill_pods(layout.control_group, layout.socket)

    @property
    def _number_file(self) -> Path:
        return self._folder / "number"

    def _number(self) -> int:
        try:
            return int(self._number_file.read_text())
        except FileNotFoundError:
            return 0

    def _link(self, name: str, target: Path) -> None:
        link = self._folder / "programs" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f"{name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)

    def _running_pods(self, kubectl: Callable[..., str]) -> list[dict[str, Any]]:
        selector = f"--field-selector=spec.nodeName={NODE_NAME}"
        pods = json.loads(kubectl("get", "pods", "-A", selector, "-o", "json"))["items"]
        return [pod for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]

    def _evict(self, kubectl: Callable[..., str], metadata: dict[str, Any]) -> None:
        name, namespace = metadata["name"], metadata["namespace"]
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/eviction"
        # It may have ended by itself meanwhile.
        with contextlib.suppress(LocalClusterError):
            kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))

    def _ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        layout = self.layout()
        return subprocess.run(
            [
                *(layout.runtime_programs / "ctr", "--address", layout.socket),
                *("--namespace", "k8s.io", *arguments),
            ],
            capture_output=True,
            text=True,
        )

"""The local cluster: a real control plane, a node, MLflow and the operator on loopback.

``LocalCluster`` is what ``kubetune up``, ``down`` and ``status`` and the cluster tests use. All
state is in its home folder; processes are detached, and any later ``LocalCluster`` on the same
folder takes them over.
"""

import os
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from kubetune_devcluster import components, objects
from kubetune_devcluster.cml import addon as cml
from kubetune_devcluster.components import Component
from kubetune_devcluster.containers import cleanup
from kubetune_devcluster.containers import node as containers
from kubetune_devcluster.containers.layout import NODE_NAME as CONTAINERD_NODE_NAME
from kubetune_devcluster.control_plane import access, build
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.home import ADDONS, DEFAULT_ADDONS, Home
from kubetune_devcluster.paths import default_cache
from kubetune_devcluster.processes import any_with_argument
from kubetune_devcluster.starting import Report, Starter
from kubetune_devcluster.status import ClusterStatus, component_status


def _silent(subject: str, text: str) -> None:
    pass


class LocalCluster:
    """One cluster below ``home``; ``components`` says what runs besides the control plane.

    Its node is ``node``, the process node, or ``containers``, a kubelet on containerd. An add-on
    whose module this installation lacks is left out. ``flags`` are added to the command lines of
    components, by their names.
    """

    def __init__(
        self,
        home: Path,
        components: Collection[str] = DEFAULT_ADDONS,
        cache: Path | None = None,
        flags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        if unknown := set(components) - ADDONS:
            raise ValueError(f"unknown components {sorted(unknown)}; known: {sorted(ADDONS)}")
        if {"node", "containers"} <= set(components):
            raise ValueError("a cluster has one node: components has both node and containers")
        self.home = home.absolute()
        self.cache = cache or default_cache()
        self._home = Home(self.home, frozenset(components))
        self._starter = Starter(self._home, flags or {})

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; exists after the first ``up``."""
        return self.home / "kubeconfig"

    @property
    def api_url(self) -> str:
        return self._home.layout().url("kube-apiserver")

    @property
    def mlflow_url(self) -> str:
        return self._home.layout().url("mlflow", "http")

    def up(self, report: Report = _silent) -> ClusterStatus:
        """Start what is missing and wait until all of it is ready.

        On an error or Ctrl-C what this call has started is stopped again. Raises
        LocalClusterError with the end of the log of the component that failed.
        """
        if "containers" in self._home.wanted:
            self._home.containers().require()
        with self._home.locked():
            binaries = build.programs(
                build.CONTROL_PLANE, self.cache, lambda text: report("build", text)
            )
            self._home.prepare(binaries)
            self._stop_other_node(report)
            if "containers" in self._home.wanted:
                self._home.containers().prepare(self.cache, report)
            if "cml" in self._home.wanted:
                report("cml", "making its client package")
                cml.prepare(self._home.layout())
            try:
                self._start_all(report)
            except LocalClusterError:
                # Somebody may have taken a port between its choice and the start of its server.
                if not self._home.free_ports():
                    raise
                self._start_all(report)
        return self.status()

    def down(self, delete: bool = False, report: Report = _silent) -> None:
        """Stop everything in order; ``delete`` also removes the state."""
        if not self.home.exists():
            return
        with self._home.locked():
            self._revive_node(report)
            self._home.containers().evict_pods(self.kubectl, report)
            names = {file.stem for file in (self.home / "run").glob("*.json")}
            self._stop(names | set(containers.NAMES), report)
            if delete:
                cleanup.require_unmounted(self.home)
                self._home.delete()

    def status(self) -> ClusterStatus:
        """What runs where, as of now."""
        layout = self._home.layout()
        return ClusterStatus(
            home=self.home,
            kubeconfig=self.kubeconfig,
            kubernetes_version=build.kubernetes_version(),
            components=[
                component_status(component, self._home.process(component.name))
                for component in self._home.all(layout)
            ],
        )

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """Run the cluster's kubectl as administrator and return what it printed.

        Raises LocalClusterError with kubectl's own message when it fails.
        """
        command = [self.kubectl_path(), *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        result = subprocess.run(
            command, input=input, env=environment, capture_output=True, text=True
        )
        if result.returncode:
            raise LocalClusterError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def upload_to_cml(self, files: Mapping[str, Path]) -> None:
        """Write local files into the project of the CML simulator, by their paths there."""
        cml.upload(self._home.layout(), files)

    def client(self) -> access.Client:
        """GET requests to the cluster's servers, as its administrator."""
        return access.Client(self._home.layout())

    def kubectl_path(self) -> Path:
        """The kubectl of the same version as the API server."""
        return self._home.layout().binaries / "kubectl"

    def log(self, name: str) -> Path:
        """The log file of a component."""
        return self._home.process(name).log

    # --- starting

    def _start_all(self, report: Report) -> None:
        """Start and wait; on an error or Ctrl-C stop again what was started."""
        started: list[Component] = []
        try:
            self._start_in_order(started, report)
        except BaseException:
            self._stop({component.name for component in started}, report)
            raise

    def _start_in_order(self, started: list[Component], report: Report) -> None:
        layout = self._home.layout()
        etcd, apiserver, *clients = components.control_plane(layout)
        addons = self._home.addons(layout)
        # These take the longest and need nothing, so they go first and are waited for last.
        first = [addons[name] for name in ("mlflow", "cml") if name in addons] + [etcd, apiserver]
        self._starter.start(first, started, report)
        client = access.Client(layout)
        self._starter.wait_ready(apiserver, client, report)
        report(etcd.name, "ready")  # the API server's readiness includes it
        second = clients + [addons[name] for name in ("node",) if name in addons]
        self._starter.start(second, started, report)
        report("objects", "installing")
        objects.install(self.kubectl, self._manifests())
        report("objects", "ready")
        if "containers" in self._home.wanted:
            second += self._start_containers(started, report)
        last = [addons[name] for name in ("operator",) if name in addons]
        self._starter.start(last, started, report)
        for component in [*second, *last, *first[:-2]]:
            self._starter.wait_ready(component, client, report)
        if "containers" in self._home.wanted:
            self.kubectl("uncordon", CONTAINERD_NODE_NAME)
        if "cml" in addons:
            cml.install(self.kubectl, layout, self.mlflow_url)
        self._starter.wait(
            "objects",
            lambda: client.read("/api/v1/namespaces/default/serviceaccounts/default") is not None,
            self._home.process("kube-controller-manager"),
        )

    def _start_containers(self, started: list[Component], report: Report) -> list[Component]:
        """Start the containerd node; all but its kubelet are ready then or soon."""
        node = self._home.containers()
        *servers, kubelet = node.components()
        self._starter.start(servers, started, report)
        self._starter.wait("containerd", node.serves, self._home.process("containerd"))
        node.import_images()
        self._starter.start([kubelet], started, report)
        return [*servers, kubelet]

    def _manifests(self) -> str:
        values = {"MLFLOW_URL": self.mlflow_url, "HOME": str(self.home)}
        if "containers" in self._home.wanted:
            node = self._home.containers().manifests()
        else:
            node = objects.filled(objects.PROCESS_NODE, values)
        return f"{objects.filled(objects.MANIFESTS, values)}\n---\n{node}"

    # --- stopping

    def _revive_node(self, report: Report) -> None:
        """Start a node again that died while its pods live on: only a node can stop them."""
        if self._home.process(components.NODE_NAME).pid() or not any_with_argument(
            str(self.home / "node")
        ):
            return
        layout = self._home.layout()
        client = access.Client(layout)
        etcd, apiserver, *_ = components.control_plane(layout)
        node = components.process_node(layout)
        self._starter.start([etcd, apiserver], [], report)
        self._starter.wait_ready(apiserver, client, report)
        self._starter.start([node], [], report)
        self._starter.wait_ready(node, client, report)

    def _stop_other_node(self, report: Report) -> None:
        """Stop the node of the kind that is not wanted: a cluster has one."""
        node = self._home.containers()
        if "node" in self._home.wanted and node.exists:
            node.evict_pods(self.kubectl, report)
            self._stop(containers.NAMES, report)
        elif "containers" in self._home.wanted:
            self._stop({components.NODE_NAME}, report)

    def _stop(self, names: Collection[str], report: Report) -> None:
        """Stop those of ``names`` in order, each stage at once."""
        node = self._home.containers()
        for stage in self._home.stop_stages():
            if "containerd" in names and stage[0].name == "containerd":
                node.kill_pods()  # those that are left
            waiting: dict[str, Callable[[], None]] = {}
            for component in stage:
                process = self._home.process(component.name)
                if component.name in names and process.record.exists():
                    report(component.name, "stopping")
                    waiting[component.name] = process.stop(
                        component.stop_signal,
                        component.stop_grace,
                        leader_only=component.stops_children,
                    )
            for name, finish in waiting.items():
                finish()
                report(name, "stopped")
        if "containerd" in names:
            node.clean()

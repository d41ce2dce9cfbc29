"""The local cluster: a real control plane, a node, MLflow and the operator on loopback.

``LocalCluster`` is what ``kubetune up``, ``down`` and ``status`` and the cluster tests use. All
state is in its home folder; processes are detached, and any later ``LocalCluster`` on the same
folder takes them over.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from kubetune_devcluster import components, objects, ports
from kubetune_devcluster.cml import addon as cml
from kubetune_devcluster.components import Component, Layout
from kubetune_devcluster.containers import cleanup
from kubetune_devcluster.containers import node as containers
from kubetune_devcluster.containers.layout import NODE_NAME as CONTAINERD_NODE_NAME
from kubetune_devcluster.control_plane import access, build, pki
from kubetune_devcluster.errors import LocalClusterError
from kubetune_devcluster.paths import default_cache
from kubetune_devcluster.processes import Process, any_with_argument, wait_until
from kubetune_devcluster.status import ClusterStatus, component_status

DEFAULT_ADDONS = frozenset({"node", "mlflow", "operator"})
ADDONS = DEFAULT_ADDONS | {"cml", "containers"}
# Components whose process is a Node, with its name.
NODES = {components.NODE_NAME: components.NODE_NAME, "kubelet": CONTAINERD_NODE_NAME}
# What `down --delete` removes: never the home folder as such, which may hold other things when
# somebody points $KUBETUNE_HOME at a folder of theirs.
FOLDERS = ("run", "logs", "pki", "etcd", "mlflow", "node", "cml", "containers")
FILES = ("bin", "kubeconfig", "ports.json", "lock")

START_TIMEOUT = 120  # seconds for one component; two busy cores need a tenth of it

Report = Callable[[str, str], None]  # (subject, what it does now)


def _silent(subject: str, text: str) -> None:
    pass


class LocalCluster:
    """One cluster below ``home``; ``components`` says what runs beside the control plane.

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
        self._wanted = frozenset(components)
        self._flags = flags or {}

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; exists after the first ``up``."""
        return self.home / "kubeconfig"

    @property
    def api_url(self) -> str:
        return self._layout().url("kube-apiserver")

    @property
    def mlflow_url(self) -> str:
        return self._layout().url("mlflow", "http")

    def up(self, report: Report = _silent) -> ClusterStatus:
        """Start what is missing and wait until all of it is ready.

        On an error or Ctrl-C what this call has started is stopped again. Raises
        LocalClusterError with the end of the log of the component that failed.
        """
        if "containers" in self._wanted:
            self._containers().require()
        with self._locked():
            binaries = build.programs(
                build.CONTROL_PLANE, self.cache, lambda text: report("build", text)
            )
            self._prepare(binaries)
            self._stop_other_node(report)
            if "containers" in self._wanted:
                self._containers().prepare(self.cache, report)
            if "cml" in self._wanted:
                report("cml", "making its client package")
                cml.prepare(self._layout())
            try:
                self._start_all(report)
            except LocalClusterError:
                # Somebody may have taken a port between its choice and the start of its server.
                if not self._free_ports():
                    raise
                self._start_all(report)
        return self.status()

    def down(self, delete: bool = False, report: Report = _silent) -> None:
        """Stop everything in order; ``delete`` also removes the state."""
        if not self.home.exists():
            return
        with self._locked():
            self._revive_node(report)
            self._containers().evict_pods(self.kubectl, report)
            names = {file.stem for file in (self.home / "run").glob("*.json")}
            self._stop(names | set(containers.NAMES), report)
            if delete:
                cleanup.require_unmounted(self.home)
                self._delete()

    def status(self) -> ClusterStatus:
        """What runs where, as of now."""
        layout = self._layout()
        return ClusterStatus(
            home=self.home,
            kubeconfig=self.kubeconfig,
            kubernetes_version=build.kubernetes_version(),
            components=[
                component_status(component, self._process(component.name))
                for component in self._all(layout)
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
        cml.upload(self._layout(), files)

    def client(self) -> access.Client:
        """GET requests to the cluster's servers, as its administrator."""
        return access.Client(self._layout())

    def kubectl_path(self) -> Path:
        """The kubectl of the same version as the API server."""
        return self._layout().binaries / "kubectl"

    def log(self, name: str) -> Path:
        """The log file of a component."""
        return self._process(name).log

    # --- starting

    def _prepare(self, binaries: Path) -> None:
        for folder in FOLDERS:
            (self.home / folder).mkdir(mode=0o700, exist_ok=True)
        self._layout().cml_packages.mkdir(exist_ok=True)
        link = self.home / "bin"
        temporary = self.home / "bin.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(binaries)
        temporary.replace(link)
        pki.ensure(self.home / "pki")
        self._free_ports()
        access.write_kubeconfigs(self._layout())

    def _free_ports(self) -> bool:
        """Choose ports anew where somebody else took them, as long as nobody of ours knows them.

        True when there were such ports.
        """
        file = self.home / "ports.json"
        kept = ports.load(file)
        running = {name for name in kept if self._process(name).pid() is not None}
        if "etcd" in running or "kube-apiserver" in running:
            running |= {"etcd", "etcd-peer"}  # the API server was told etcd's port at its start
        wanted = {name for name in kept if name not in ADDONS} | (self._wanted & set(kept))
        return ports.replace_taken(file, kept, unused=wanted - running) != kept

    def _start_all(self, report: Report) -> None:
        """Start and wait; on an error or Ctrl-C stop again what was started."""
        started: list[Component] = []
        try:
            self._start_in_order(started, report)
        except BaseException:
            self._stop({component.name for component in started}, report)
            raise

    def _start_in_order(self, started: list[Component], report: Report) -> None:
        layout = self._layout()
        etcd, apiserver, *clients = components.control_plane(layout)
        addons = self._addons(layout)
        # These take the longest and need nothing, so they go first and are waited for last.
        first = [addons[name] for name in ("mlflow", "cml") if name in addons] + [etcd, apiserver]
        self._start_missing(first, started, report)
        client = access.Client(layout)
        self._wait_ready(apiserver, client, report)
        report(etcd.name, "ready")  # the API server's readiness includes it
        second = clients + [addons[name] for name in ("node",) if name in addons]
        self._start_missing(second, started, report)
        report("objects", "installing")
        objects.install(self.kubectl, self._manifests())
        report("objects", "ready")
        if "containers" in self._wanted:
            second += self._start_containers(started, report)
        last = [addons[name] for name in ("operator",) if name in addons]
        self._start_missing(last, started, report)
        for component in [*second, *last, *first[:-2]]:
            self._wait_ready(component, client, report)
        if "containers" in self._wanted:
            self.kubectl("uncordon", CONTAINERD_NODE_NAME)
        if "cml" in addons:
            cml.install(self.kubectl, layout, self.mlflow_url)
        self._wait(
            "objects",
            lambda: client.read("/api/v1/namespaces/default/serviceaccounts/default") is not None,
            self._process("kube-controller-manager"),
        )

    def _start_containers(self, started: list[Component], report: Report) -> list[Component]:
        """Start the containerd node; all but its kubelet are ready then or soon."""
        node = self._containers()
        *servers, kubelet = node.components()
        self._start_missing(servers, started, report)
        self._wait("containerd", node.serves, self._process("containerd"))
        node.import_images()
        self._start_missing([kubelet], started, report)
        return [*servers, kubelet]

    def _manifests(self) -> str:
        values = {"MLFLOW_URL": self.mlflow_url, "HOME": str(self.home)}
        if "containers" in self._wanted:
            node = self._containers().manifests()
        else:
            node = objects.filled(objects.PROCESS_NODE, values)
        return f"{objects.filled(objects.MANIFESTS, values)}\n---\n{node}"

    def _start_missing(
        self, wanted: list[Component], started: list[Component], report: Report
    ) -> None:
        for component in wanted:
            process = self._process(component.name)
            if process.pid() is None:
                report(component.name, "starting")
                started.append(component)
                command = [*component.command, *self._flags.get(component.name, ())]
                process.start(command, component.environment, cwd=self.home)

    def _wait_ready(self, component: Component, client: access.Client, report: Report) -> None:
        if name := NODES.get(component.name):
            process = self._process(component.name)
            since = process.record.stat().st_mtime
            self._wait(component.name, lambda: _node_ready(client, name, since), process)
        elif component.health:
            self._wait(
                component.name,
                lambda: client.status(component.health) == 200,
                self._process(component.name),
            )
        report(component.name, "ready")

    def _wait(self, name: str, ready: Callable[[], bool], process: Process) -> None:
        def settled() -> bool:
            return ready() or process.pid() is None

        in_time = wait_until(settled, START_TIMEOUT)
        if process.pid() is None or not in_time:
            problem = "was not ready in time" if process.pid() else "ended right after its start"
            raise LocalClusterError(
                f"{name} {problem}; its log is {process.log} and ends with:\n{process.log_tail()}"
            )

    # --- stopping

    def _revive_node(self, report: Report) -> None:
        """Start a node again that died while its pods live on: only a node can stop them."""
        if self._process(components.NODE_NAME).pid() or not any_with_argument(
            str(self.home / "node")
        ):
            return
        layout = self._layout()
        client = access.Client(layout)
        etcd, apiserver, *_ = components.control_plane(layout)
        node = components.process_node(layout)
        self._start_missing([etcd, apiserver], [], report)
        self._wait_ready(apiserver, client, report)
        self._start_missing([node], [], report)
        self._wait_ready(node, client, report)

    def _stop_other_node(self, report: Report) -> None:
        """Stop the node of the kind that is not wanted: a cluster has one."""
        node = self._containers()
        if "node" in self._wanted and node.exists:
            node.evict_pods(self.kubectl, report)
            self._stop(containers.NAMES, report)
        elif "containers" in self._wanted:
            self._stop({components.NODE_NAME}, report)

    def _delete(self) -> None:
        for name in FOLDERS:
            shutil.rmtree(self.home / name, ignore_errors=True)
        for name in FILES:
            (self.home / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: then it is not ours alone
            self.home.rmdir()

    def _stop(self, names: Collection[str], report: Report) -> None:
        """Stop those of ``names`` in order, each stage at once."""
        node = self._containers()
        for stage in self._stop_stages():
            if "containerd" in names and stage[0].name == "containerd":
                node.kill_pods()  # those that are left
            waiting: dict[str, Callable[[], None]] = {}
            for component in stage:
                process = self._process(component.name)
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

    def _stop_stages(self) -> list[list[Component]]:
        """The node first, while pods can still report; then clients before their servers."""
        layout = self._layout()
        etcd, apiserver, *clients = components.control_plane(layout)
        addons = self._addons(layout, ADDONS)
        *runtime, kubelet = self._containers().components()
        first = [[addons[name]] for name in ("node",) if name in addons] + [[kubelet], runtime]
        first += [[addons[name]] for name in ("operator",) if name in addons]
        servers = [addons[name] for name in ("mlflow", "cml") if name in addons]
        return [*first, servers + clients, [apiserver], [etcd]]

    # --- parts

    def _layout(self) -> Layout:
        return Layout(self.home, self.home / "bin", ports.load(self.home / "ports.json"))

    def _all(self, layout: Layout) -> list[Component]:
        """Everything that runs here, should run here, or once did."""
        known = self._wanted | {name for name in ADDONS if self._process(name).log.exists()}
        node = self._containers()
        real = node.components() if "containers" in self._wanted or node.known else []
        return [*components.control_plane(layout), *self._addons(layout, known).values(), *real]

    def _addons(
        self, layout: Layout, wanted: Collection[str] | None = None
    ) -> dict[str, Component]:
        makers = {
            "node": (components.process_node, "kubetune_devcluster.node.__main__"),
            "mlflow": (components.mlflow, "mlflow"),
            "cml": (components.cml, "kubetune.clients.cml"),
            "operator": (components.operator, "kubetune.handlers"),
        }
        return {
            name: make(layout)
            for name, (make, module) in makers.items()
            if name in (self._wanted if wanted is None else wanted) and components.installed(module)
        }

    def _containers(self) -> containers.ContainerdNode:
        return containers.ContainerdNode(self._layout(), self._process)

    def _process(self, name: str) -> Process:
        return Process(name, self.home / "run", self.home / "logs")

    def _make_home(self) -> None:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home.chmod(0o700)

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """One ``up`` or ``down`` at a time for this home."""
        self._make_home()
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


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

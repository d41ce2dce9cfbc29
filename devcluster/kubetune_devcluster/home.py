"""One cluster's folder: what is kept there, and which components belong to it."""

import contextlib
import fcntl
import shutil
from collections.abc import Collection, Generator
from dataclasses import dataclass
from pathlib import Path

from kubetune_devcluster import components, ports
from kubetune_devcluster.components import Component, Layout
from kubetune_devcluster.containers import node as containers
from kubetune_devcluster.control_plane import access, pki
from kubetune_devcluster.processes import Process

DEFAULT_ADDONS = frozenset({"node", "mlflow", "operator"})
ADDONS = DEFAULT_ADDONS | {"cml", "containers"}
# What `down --delete` removes: never the home folder as such, which may hold other things when
# somebody points $KUBETUNE_HOME at a folder of theirs.
FOLDERS = ("run", "logs", "pki", "etcd", "mlflow", "node", "cml", "containers")
FILES = ("bin", "kubeconfig", "ports.json", "lock")


@dataclass(frozen=True)
class Home:
    """The folder ``path`` of a cluster; ``wanted`` says what runs besides the control plane."""

    path: Path
    wanted: frozenset[str]

    def layout(self) -> Layout:
        """Its files and ports, as of now."""
        return Layout(self.path, self.path / "bin", ports.load(self.path / "ports.json"))

    def process(self, name: str) -> Process:
        """The process of a component, running or not."""
        return Process(name, self.path / "run", self.path / "logs")

    def containers(self) -> containers.ContainerdNode:
        """The containerd node, also where it isn't wanted."""
        return containers.ContainerdNode(self.layout(), self.process)

    def addons(self, layout: Layout, wanted: Collection[str] | None = None) -> dict[str, Component]:
        """Those that are wanted and installed, by their names."""
        makers = {
            "node": (components.process_node, "kubetune_devcluster.node.__main__"),
            "mlflow": (components.mlflow, "mlflow"),
            "cml": (components.cml, "kubetune.clients.cml"),
            "operator": (components.operator, "kubetune.handlers"),
        }
        return {
            name: make(layout)
            for name, (make, module) in makers.items()
            if name in (self.wanted if wanted is None else wanted) and components.installed(module)
        }

    def all(self, layout: Layout) -> list[Component]:
        """Everything that runs here, should run here, or once did."""
        known = self.wanted | {name for name in ADDONS if self.process(name).log.exists()}
        node = self.containers()
        real = node.components() if "containers" in self.wanted or node.known else []
        return [*components.control_plane(layout), *self.addons(layout, known).values(), *real]

    def stop_stages(self) -> list[list[Component]]:
        """The node first, while pods can still report; then clients before their servers."""
        layout = self.layout()
        etcd, apiserver, *clients = components.control_plane(layout)
        addons = self.addons(layout, ADDONS)
        *runtime, kubelet = self.containers().components()
        first = [[addons[name]] for name in ("node",) if name in addons] + [[kubelet], runtime]
        first += [[addons[name]] for name in ("operator",) if name in addons]
        servers = [addons[name] for name in ("mlflow", "cml") if name in addons]
        return [*first, servers + clients, [apiserver], [etcd]]

    def prepare(self, binaries: Path) -> None:
        """Make folders, certificates, ports and kubeconfigs where they are missing."""
        for folder in FOLDERS:
            (self.path / folder).mkdir(mode=0o700, exist_ok=True)
        self.layout().cml_packages.mkdir(exist_ok=True)
        link = self.path / "bin"
        temporary = self.path / "bin.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(binaries)
        temporary.replace(link)
        pki.ensure(self.path / "pki")
        self.free_ports()
        access.write_kubeconfigs(self.layout())

    def free_ports(self) -> bool:
        """Choose ports again where somebody else took them, as long as nobody of ours knows them.

        True when there were such ports.
        """
        file = self.path / "ports.json"
        kept = ports.load(file)
        running = {name for name in kept if self.process(name).pid() is not None}
        if "etcd" in running or "kube-apiserver" in running:
            running |= {"etcd", "etcd-peer"}  # the API server was told etcd's port at its start
        wanted = {name for name in kept if name not in ADDONS} | (self.wanted & set(kept))
        return ports.replace_taken(file, kept, unused=wanted - running) != kept

    def delete(self) -> None:
        """Remove the state, and the folder when nothing else is in it."""
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty: then it is not ours alone
            self.path.rmdir()

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """One ``up`` or ``down`` at a time for this home."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

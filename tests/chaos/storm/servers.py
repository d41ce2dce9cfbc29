"""The servers of a cluster, killed and started again one by one."""

from __future__ import annotations

import os
import signal

from kubetune.api import API_VERSION
from kubetune.api.kinds.table import KINDS
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.control_plane import access
from kubetune_devcluster.home import Home

from tests.cluster.support import eventually

KILLED = ("kube-apiserver", "etcd", "mlflow")
DEFINED = tuple(f"/apis/{API_VERSION}/{kind.plural}?limit=1" for kind in KINDS)


class Servers:
    """API server, etcd and MLflow of a cluster, as processes."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._home = Home(cluster.home, frozenset({"mlflow"}))
        layout = self._home.layout()
        self._client = access.Client(layout)
        self._components = {each.name: each for each in self._home.all(layout)}

    def kill(self, name: str) -> None:
        """End one as a crash would."""
        process = self._home.process(name)
        pid = process.pid()
        assert pid is not None, f"{name} does not run"
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: process.pid() is None, 20)

    def start(self, name: str) -> None:
        """Start one that was killed, with the same settings; others may be down meanwhile."""
        component = self._components[name]
        process = self._home.process(name)
        if process.pid() is None:
            process.start(component.command, component.environment, cwd=self._home.path)

    def tend(self) -> None:
        """Start those that have ended, as an API server may whose own start took too long."""
        for name in ("etcd", "kube-apiserver", "mlflow"):
            self.start(name)

    def answers(self, name: str) -> bool:
        """Whether one does its work again; the API server needs etcd for that."""
        if name == "mlflow":
            return self._client.status(self._components[name].health, 2) == 200
        server = self._components["kube-apiserver"]
        # It is ready before it serves what CRDs define.
        asked = (server.health, *(f"{server.address}{path}" for path in DEFINED))
        return all(self._client.status(each, 2) == 200 for each in asked)

    def all_answer(self) -> bool:
        """Whether all do."""
        return all(self.answers(name) for name in KILLED)

    def revive(self) -> None:
        """Have all of them run and answer."""

        def answer() -> bool:
            self.tend()
            return self.all_answer()

        eventually(answer, 120, interval=0.2)

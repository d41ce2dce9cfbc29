"""``kubetune up``, ``down`` and ``status`` on a real control plane: tidy and loopback only."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubetune_devcluster import ports
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.control_plane import pki
from kubetune_devcluster.errors import LocalClusterError
from support import accepts_connections, eventually, listening_addresses, processes_of

pytestmark = pytest.mark.cluster

CONTROL_PLANE = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster of this file's own, of which only the control plane is wanted; use ``own``."""
    cluster = LocalCluster(tmp_path_factory.mktemp("own") / "home", set())
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def own(kept: LocalCluster) -> LocalCluster:
    """The control plane, running, whatever the test before has done to it."""
    kept.up()
    return kept


def pids(cluster: LocalCluster) -> dict[str, int | None]:
    return {part.name: part.pid for part in cluster.status().components}


def kubetune(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on the cluster in ``home``."""
    return subprocess.run(
        [sys.executable, "-m", "kubetune.cli", *arguments],
        env=os.environ | {"KUBETUNE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )


class TestLifecycle:
    def test_state_survives_down_and_up(self, own: LocalCluster) -> None:
        own.kubectl("create", "configmap", "kept", "--from-literal=answer=42")
        kubeconfig = own.kubeconfig.read_text()
        own.down()
        own.up()
        kept = own.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.answer}")
        assert kept == "42"
        # Copies that users made stay good: same address, same certificates.
        assert own.kubeconfig.read_text() == kubeconfig

    def test_down_leaves_no_process_and_no_port(self, own: LocalCluster) -> None:
        members = {
            process.pid
            for pid in pids(own).values()
            if pid
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        }
        addresses = listening_addresses(members)
        assert len(addresses) >= 5
        own.down()
        assert processes_of(own.home) == []
        assert [port for _, port in addresses if accepts_connections(port)] == []
        assert {part.state for part in own.status().components} == {"stopped"}
        own.down()  # once more is no error

    def test_second_up_changes_nothing(self, own: LocalCluster) -> None:
        before = pids(own)
        own.up()
        assert pids(own) == before

    @pytest.mark.parametrize("name", ["etcd", "kube-apiserver", "kube-scheduler"])
    def test_up_restarts_what_was_killed_and_only_that(self, own: LocalCluster, name: str) -> None:
        before = pids(own)
        pid = before[name]
        assert pid
        os.kill(pid, signal.SIGKILL)
        state = {part.name: part.state for part in eventually(lambda: _not_running(own))}
        assert state[name] == "crashed"
        own.up()
        after = pids(own)
        assert after[name] not in (None, pid)
        assert {k: v for k, v in after.items() if k != name} == {
            k: v for k, v in before.items() if k != name
        }
        assert "kube-system" in own.kubectl("get", "namespaces", "-o", "name")

    def test_delete_removes_the_state_and_nothing_else(self, own: LocalCluster) -> None:
        other = own.home / "notes.txt"
        other.write_text("not the cluster's")
        own.down(delete=True)
        assert [path.name for path in own.home.iterdir()] == ["notes.txt"]

    def test_a_reused_pid_is_not_taken_for_ours(self, own: LocalCluster) -> None:
        """A record whose pid now belongs to somebody else must not get that process killed."""
        own.down()
        bystander = subprocess.Popen(["sleep", "600"])
        try:
            record = own.home / "run" / "etcd.json"
            record.write_text(json.dumps({"pid": bystander.pid, "started": "another/123"}))
            assert pids(own)["etcd"] is None
            own.down()
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()


class TestFailure:
    def test_a_taken_api_port_is_named_and_nothing_stays_behind(self, own: LocalCluster) -> None:
        own.down()
        with socket.socket() as other:
            port = ports.load(own.home / "ports.json")["kube-apiserver"]
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(LocalClusterError, match=f"port {port} .*kube-apiserver.*taken"):
                own.up()
        assert processes_of(own.home) == []

    def test_a_taken_internal_port_is_replaced(self, own: LocalCluster) -> None:
        own.down()
        with socket.socket() as other:
            port = ports.load(own.home / "ports.json")["etcd"]
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            own.up()
            assert ports.load(own.home / "ports.json")["etcd"] != port

    def test_a_port_that_is_taken_during_the_start_is_replaced(self, own: LocalCluster) -> None:
        own.down()
        with socket.socket() as other:
            port = ports.load(own.home / "ports.json")["kube-scheduler"]

            def take(subject: str, does: str) -> None:
                if (subject, does) == ("etcd", "ready") and not other.getsockname()[1]:
                    other.bind(("127.0.0.1", port))
                    other.listen()

            own.up(take)
            assert other.getsockname()[1] == port
            assert ports.load(own.home / "ports.json")["kube-scheduler"] != port

    def test_a_component_that_fails_shows_its_log_and_the_rest_is_stopped(
        self, own: LocalCluster
    ) -> None:
        own.down()
        (own.home / "pki" / "service-account.key").write_text("damaged")
        with pytest.raises(LocalClusterError, match=r"kube-apiserver ended right after[\s\S]*key"):
            own.up()
        assert processes_of(own.home) == []
        (own.home / "pki" / "service-account.key").unlink()

    def test_ctrl_c_during_up_stops_what_was_started(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        process = subprocess.Popen(
            [sys.executable, "-m", "kubetune.cli", "up", "--without", "mlflow"],
            env=os.environ | {"KUBETUNE_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # Who runs the tests in the background has it ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        eventually((home / "run" / "kube-apiserver.json").exists)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode != 0, said
        assert processes_of(home) == []


class TestSecurity:
    def test_only_loopback_is_bound(self, cluster: LocalCluster) -> None:
        members = {
            process.pid
            for pid in pids(cluster).values()
            if pid
            for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        }
        addresses = listening_addresses(members)
        assert {host for host, _ in addresses} == {"127.0.0.1"}
        known = ports.load(cluster.home / "ports.json")
        assert {known["etcd"], known["kube-apiserver"], known["mlflow"]} <= {
            port for _, port in addresses
        }

    def test_secrets_are_for_the_owner_only(self, cluster: LocalCluster) -> None:
        assert cluster.home.stat().st_mode & 0o777 == 0o700
        private = [cluster.kubeconfig, *(cluster.home / "pki").glob("*")]
        assert {path.stat().st_mode & 0o077 for path in private} == {0}

    def test_etcd_refuses_clients_of_the_cluster_authority(self, cluster: LocalCluster) -> None:
        """The node's certificate is good for the API server; etcd holds every Secret in plain."""
        url = next(p.address for p in cluster.status().components if p.name == "etcd")
        key = cluster.home / "pki" / "node.key"
        answer = subprocess.run(
            ["curl", "-sk", "--cert", key.with_suffix(".crt"), "--key", key, f"{url}/version"],
            capture_output=True,
        )
        assert answer.returncode != 0
        assert answer.stdout == b""

    def test_a_certificate_near_its_end_is_renewed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pki.ensure(tmp_path)
        first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        pki.ensure(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
        monkeypatch.setattr(pki, "RENEW_BEFORE", pki.LIFETIME)
        pki.ensure(tmp_path)
        changed = {p.name for p in tmp_path.iterdir() if p.read_bytes() != first[p.name]}
        assert {"admin.crt", "kube-apiserver.crt", "etcd.crt"} <= changed
        assert not {"ca.crt", "etcd-ca.crt", "service-account.key"} & changed


class TestAddons:
    def test_the_process_node_is_ready_and_tainted(self, cluster: LocalCluster) -> None:
        node = json.loads(cluster.kubectl("get", "node", "process-node", "-o", "json"))
        taint = {"key": "kubetune.io/process-node", "value": "true", "effect": "NoSchedule"}
        assert taint in node["spec"]["taints"]

    def test_mlflow_answers_where_status_says(self, cluster: LocalCluster) -> None:
        mlflow = next(p for p in cluster.status().components if p.name == "mlflow")
        assert mlflow.address == cluster.mlflow_url
        answer = subprocess.run(
            ["curl", "-sf", "--noproxy", "*", f"{cluster.mlflow_url}/version"],
            capture_output=True,
            text=True,
        )
        assert answer.stdout.startswith("3.")

    def test_down_stops_pods_of_a_node_that_died(self, tmp_path: Path) -> None:
        """Pods outlive their node; without it nobody would stop them."""
        cluster = LocalCluster(tmp_path / "home", {"node"})
        cluster.up()
        try:
            cluster.kubectl("apply", "-f", "-", input=json.dumps(_sleeping_pod()))
            cluster.kubectl("wait", "pod/sleeper", "--for=condition=Ready", "--timeout=30s")
            node = pids(cluster)["process-node"]
            assert node
            os.kill(node, signal.SIGKILL)
            eventually(lambda: pids(cluster)["process-node"] is None)
        finally:
            cluster.down()
        assert processes_of(cluster.home) == []


class TestCommandLine:
    def test_status_as_json(self, own: LocalCluster) -> None:
        result = kubetune(own.home, "status", "-o", "json")
        assert result.returncode == 0, result.stderr
        status: dict[str, Any] = json.loads(result.stdout)
        assert status["running"] is True
        assert status["kubeconfig"] == str(own.kubeconfig)
        parts = {part["name"]: part for part in status["components"]}
        assert list(parts)[:4] == CONTROL_PLANE
        for name in CONTROL_PLANE:
            assert set(parts[name]) == {"name", "state", "pid", "address", "rssBytes", "log"}
            assert parts[name]["state"] == "running"
            assert parts[name]["rssBytes"] > 10_000_000
            assert parts[name]["address"].startswith("https://127.0.0.1:")

    def test_status_of_no_cluster(self, tmp_path: Path) -> None:
        result = kubetune(tmp_path / "none", "status")
        assert result.returncode == 1
        assert "stopped" in result.stdout
        assert not (tmp_path / "none").exists()

    def test_kubeconfig_kubectl_and_logs(self, own: LocalCluster) -> None:
        assert kubetune(own.home, "kubeconfig").stdout.strip() == str(own.kubeconfig)
        namespaces = kubetune(own.home, "kubectl", "--", "get", "ns", "-o", "name").stdout
        assert "namespace/kubetune-system" in namespaces.split()
        assert kubetune(own.home, "logs", "--tail", "5", "kube-apiserver").stdout.count("\n") == 5
        unknown = kubetune(own.home, "logs", "apiserver")
        assert unknown.returncode == 2
        assert "kube-apiserver" in unknown.stderr

    def test_kubeconfig_before_the_first_up_says_what_to_do(self, tmp_path: Path) -> None:
        result = kubetune(tmp_path / "none", "kubeconfig")
        assert result.returncode == 1
        assert "kubetune up" in result.stderr


def _not_running(cluster: LocalCluster) -> list[Any]:
    status = cluster.status()
    return [] if status.running else status.components


def _sleeping_pod() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sleeper"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"key": "kubetune.io/process-node", "operator": "Exists"}],
            "containers": [
                {"name": "main", "image": "kubetune.local/runner", "command": ["sleep", "600"]}
            ],
        },
    }

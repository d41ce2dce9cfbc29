"""Loopback ports of a local cluster, chosen once and kept over ``down`` and ``up``.

Running pods, kubeconfig copies and links in object status hold the addresses of the API server
and of MLflow, and compute targets that of the CML simulator, so those never move by themselves.
"""

import json
import random
import socket
import time
from pathlib import Path

from kubetune_devcluster.errors import LocalClusterError

NAMES = (
    "kube-apiserver",
    "etcd",
    "etcd-peer",
    "kube-controller-manager",
    "kube-scheduler",
    "mlflow",
    "operator",
    "cml",
    "kubelet",
    "kubelet-health",
    "coredns",
)
PUBLIC = ("kube-apiserver", "mlflow", "cml")
LET_GO_SECONDS = 3.0

_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Trainings and tests seed the shared generator, and two clusters would want the same ports.
_CHANCE = random.SystemRandom()


def load(file: Path) -> dict[str, int]:
    """The kept ports by name; new ones are chosen for names that have none.

    Nothing is written while the folder of ``file`` does not exist.
    """
    try:
        kept: dict[str, int] = json.loads(file.read_text())
    except FileNotFoundError:
        kept = {}
    ports = {name: kept[name] for name in NAMES if name in kept}
    for name in NAMES:
        if name not in ports:
            ports[name] = _choose(set(ports.values()))
    if ports != kept and file.parent.exists():
        _save(file, ports)
    return ports


def replace_taken(file: Path, ports: dict[str, int], unused: set[str]) -> dict[str, int]:
    """Make sure that the ports in ``unused`` (nothing of ours listens there) can be had.

    Internal ports that somebody else took are chosen again; for a public one LocalClusterError
    tells what to do.
    """
    taken = {name for name in unused if not _comes_free(ports[name])}
    for name in sorted(taken & set(PUBLIC)):
        raise LocalClusterError(
            f"port {ports[name]} on 127.0.0.1, which this cluster uses for {name}, is taken by"
            f" another program. Stop that program, or change {name!r} in {file} to a free port"
            " (kubeconfig copies and links to the old address then stop working)."
        )
    if taken:
        ports = dict(ports)
        for name in taken:
            ports[name] = _choose(set(ports.values()))
        _save(file, ports)
    return ports


def is_free(port: int) -> bool:
    """True when a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # Closed connections that linger do not stop a server, so they do not count here.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _comes_free(port: int) -> bool:
    """True when the port is free, or is so soon: a killed server holds it until it is gone."""
    deadline = time.monotonic() + LET_GO_SECONDS
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _choose(used: set[int]) -> int:
    wanted = _range()
    for port in _CHANCE.sample(wanted, 200):
        if port not in used and is_free(port):
            return port
    raise LocalClusterError(f"no free port on 127.0.0.1 between {wanted.start} and {wanted.stop}")


def _range() -> range:
    """Ports below those that the system gives to outgoing connections.

    One of those could sit on a kept port at the next start.
    """
    try:
        first = int(_OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return range(20_000, 32_000) if first > 32_000 else range(10_000, max(first, 12_000))


def _save(file: Path, ports: dict[str, int]) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(ports, indent=2))
    temporary.replace(file)

"""Names, addresses and folders of one cluster's containerd node."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from kubetune_devcluster.components import Layout

NODE_NAME = "containerd-node"
LABEL = "kubetune.io/containerd-node"
NETWORK = IPv4Network("10.199.0.0/16")
"""Addresses of nodes and pods: a /24 for each node on this machine."""
NODE_ADDRESS = IPv4Address("10.199.0.1")
"""The machine, for pods and for itself. Each node's bridge has it; their ports differ."""
API_ADDRESS = IPv4Address("10.96.0.1")
"""The cluster address of the Service kubernetes; each node's bridge has it too."""
RUNNER_IMAGE = "kubetune.local/runner:latest"
PAUSE_IMAGE = "kubetune.local/pause:latest"
RUNTIME_HANDLER = "kubetune-runner"


@dataclass(frozen=True)
class NodeLayout:
    """Where one node keeps things. ``number`` tells it from others on this machine."""

    cluster: Layout
    kubelet_programs: Path
    runtime_programs: Path
    number: int

    @property
    def folder(self) -> Path:
        return self.cluster.home / "containers"

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def device(self) -> str:
        """The bridge that the pods' network devices are ports of."""
        return device_name(self.number)

    @property
    def control_group(self) -> str:
        return self.device

    @property
    def pods(self) -> IPv4Network:
        return pod_network(self.number)

    @property
    def gateway(self) -> IPv4Address:
        """The bridge's own address among its pods; their DNS server listens there."""
        return self.pods[1]

    @property
    def tracking_url(self) -> str:
        """MLflow's address for pods and for this machine; the same after each start."""
        return tracking_url(self.cluster)


def tracking_url(layout: Layout) -> str:
    """MLflow's address for the pods of a containerd node."""
    return f"http://{NODE_ADDRESS}:{layout.ports['mlflow']}"


def device_name(number: int) -> str:
    return f"kubetune{number}"


def pod_network(number: int) -> IPv4Network:
    """The addresses of the pods of a node. Network 0 holds the address of the nodes."""
    return IPv4Network((int(NETWORK.network_address) + number * 256, 24))

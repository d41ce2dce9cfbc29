"""The bridge of a node's pods.

Making the bridge claims the node's number on this machine: the kernel refuses a second device of
the name. All addresses of a node are on its bridge, so removing the device removes them.
"""

import json
import subprocess
from ipaddress import IPv4Network
from pathlib import Path

from kubetune_devcluster.containers import layout
from kubetune_devcluster.containers.requirements import run
from kubetune_devcluster.errors import LocalClusterError

NUMBERS = range(1, 255)


def claim(home: Path, kept: int | None) -> int:
    """The number of the node of the cluster in ``home``, with its bridge up.

    ``kept`` is the number of the node's start before, used again where it still has its bridge.
    """
    if kept is not None and _owner(layout.device_name(kept)) == str(home):
        return kept
    for number in NUMBERS:
        if _overlaps_a_route(layout.pod_network(number)):
            continue
        device = layout.device_name(number)
        if _ip("link", "add", device, "type", "bridge").returncode == 0:
            try:
                _set_up(device, number, home)
            except BaseException:
                _ip("link", "delete", device)
                raise
            return number
    raise LocalClusterError(
        f"no free network for pods: {layout.NETWORK} is used up or routed elsewhere. Stop another"
        " cluster (kubetune down --home ...), or remove bridges of clusters that are gone"
        " (ip link delete kubetune1)."
    )


def remove(home: Path, number: int) -> None:
    """Remove the bridge if it is this cluster's."""
    device = layout.device_name(number)
    if _owner(device) == str(home):
        _ip("link", "delete", device)


def _set_up(device: str, number: int, home: Path) -> None:
    # A bridge without ports has no carrier, and addresses on it work all the same. IPv6 would
    # give it an address of its own kind that nothing here uses.
    pods = layout.pod_network(number)
    for arguments in (
        ("link", "set", device, "alias", str(home)),
        ("address", "add", f"{pods[1]}/{pods.prefixlen}", "dev", device),
        ("address", "add", f"{layout.NODE_ADDRESS}/32", "dev", device),
        ("address", "add", f"{layout.API_ADDRESS}/32", "dev", device),
        ("link", "set", device, "addrgenmode", "none"),
        ("link", "set", device, "up"),
    ):
        result = _ip(*arguments)
        if result.returncode:
            raise LocalClusterError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


def _overlaps_a_route(network: IPv4Network) -> bool:
    routes = json.loads(_ip("-4", "-json", "route", "show", "table", "all").stdout or "[]")
    return any(
        network.overlaps(IPv4Network(route["dst"], strict=False))
        for route in routes
        if route.get("dst", "default") != "default"
    )


def _owner(device: str) -> str | None:
    answer = _ip("-json", "link", "show", "dev", device)
    return json.loads(answer.stdout)[0].get("ifalias") if answer.returncode == 0 else None


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("ip", *arguments)

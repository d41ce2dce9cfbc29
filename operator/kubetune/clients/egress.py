"""Where the operator connects to on behalf of specs: decided for the very address it connects to.

Whoever may write an address into a spec has the operator call it, from inside of the cluster's
network. What only the operator's own machine and its cloud answer to is therefore reached where an
administrator has listed it, and nowhere else. A name proves nothing: it may lead to another
address each time it is asked for. So the rule looks at addresses, when a connection is made.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ALLOWED, REFUSED = "Allowed", "Refused"
SETTING = "KUBETUNE_EGRESS_ALLOW"

_GUARDED: tuple[tuple[str, str], ...] = (
    ("127.0.0.0/8", "a loopback address"),
    ("::1/128", "a loopback address"),
    ("169.254.0.0/16", "a link-local address, where clouds keep credentials"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("0.0.0.0/8", "an unspecified address, which is the machine itself"),
    ("::/128", "an unspecified address, which is the machine itself"),
    ("224.0.0.0/4", "a multicast address"),
    ("ff00::/8", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("100.100.100.200/32", "the metadata service of a cloud"),
    ("168.63.129.16/32", "the metadata service of a cloud"),
    ("192.0.0.192/32", "the metadata service of a cloud"),
    ("fd00:ec2::254/128", "the metadata service of a cloud"),
    ("fd20:ce::254/128", "the metadata service of a cloud"),
)
GUARDED: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), what) for network, what in _GUARDED
)
"""What has to be listed to be reached, and what it is."""
_NAME = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class EgressError(ValueError):
    """A connection that the operator doesn't make; the message says which setting allows it."""


@dataclass(frozen=True)
class Egress:
    """Which addresses may be connected to."""

    networks: tuple[Network, ...] = ()
    """Those listed; they may be guarded ones."""
    hosts: tuple[str, ...] = ()
    """Names that are listed, ``.example.com`` for all below one. They open no guarded address."""
    others: str = ALLOWED
    """ALLOWED or REFUSED: what is neither guarded nor listed."""
    guards: bool = True

    @staticmethod
    def parsed(listed: str, others: str = ALLOWED) -> Egress:
        """From the settings: addresses, networks and names with commas between.

        Raises ValueError that names the entry.
        """
        networks: list[Network] = []
        hosts: list[str] = []
        for entry in filter(None, (part.strip() for part in listed.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
                continue
            except ValueError:
                pass
            name = entry.lower().removeprefix("*").rstrip(".")
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{entry!r} is no address, network or host name; give such as 10.0.0.0/8,"
                    " mlflow.example.com or *.example.com"
                )
            hosts.append(name)
        if others not in (ALLOWED, REFUSED):
            raise ValueError(f"{others!r} is neither {ALLOWED} nor {REFUSED}")
        return Egress(tuple(networks), tuple(hosts), others)

    def check(self, host: str, address: str) -> None:
        """Whether a connection to this address, which a host has led to, is made.

        Raises EgressError.
        """
        if not self.guards:
            return
        given = ipaddress.ip_address(address.partition("%")[0])
        meant = _meant(given)
        if any(item in network for item in {given, meant} for network in self.networks):
            return
        shown = f"{host} leads to {given}" if host != str(given) else host
        for item in (given, meant):
            for network, what in GUARDED:
                if item in network:
                    raise EgressError(
                        f"the operator does not connect to {shown}, {what}; an administrator can"
                        f" list it in {SETTING}"
                    )
        if self.others == REFUSED and not self._names(host):
            raise EgressError(
                f"the operator connects only to what {SETTING} lists, and {shown} is not in it"
            )

    def _names(self, host: str) -> bool:
        host = host.lower().rstrip(".")
        return any(
            host.endswith(name) if name.startswith(".") else host == name for name in self.hosts
        )

    def sockets(self, host: str) -> Callable[[Any], socket.socket]:
        """What makes the sockets of a host's connections for aiohttp; raises EgressError."""

        def make(info: tuple[int, int, int, str, tuple[Any, ...]]) -> socket.socket:
            family, kind, protocol, _, address = info
            self.check(host, str(address[0]))
            return socket.socket(family, kind, protocol)

        return make

    def resolved(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, all of which may be connected to.

        Raises EgressError, and OSError when there are none.
        """
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
        for address in addresses:
            self.check(host, address)
        return addresses


OPEN = Egress(guards=False)
"""For who connects on their own machine, with their own rights."""


def _meant(address: Address) -> Address:
    """The IPv4 address that one of IPv6 carries, where it leads to that; else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if inner := address.ipv4_mapped or address.sixtofour:
        return inner
    number = int(address)
    if address in _NAT64 or (address in _COMPATIBLE and number > 1):
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address

"""The table of backends: how the one of each type of target is made, once in an operator."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from kubetune.clients.cml_access import cml_access
from kubetune.clients.config_maps import config_map_value
from kubetune.clients.connections import Connections
from kubetune.keys import Keyring
from kubetune.settings import Settings
from kubetune.targets.cml.backend import CmlBackend
from kubetune.targets.contract import Backend
from kubetune.targets.dispatch import Backends
from kubetune.targets.kubernetes.backend import KubernetesBackend
from kubetune.targets.kubernetes.job_cache import JobCache
from kubetune.targets.values import Owner, RunAddress


@dataclass(frozen=True)
class Parts:
    """What a backend may be made of."""

    connections: Connections
    cache: JobCache
    settings: Settings
    keys: Keyring
    notify: Callable[[Owner], None]
    """Called with an owner whose runs have news."""
    taken_over: Callable[[RunAddress], Awaitable[bool]]
    """Whether another object of the owner's name has the runs by now, as one from a backup."""
    clock: Callable[[], float] = time.monotonic


def _cml(parts: Parts) -> CmlBackend:
    cluster = parts.connections.cluster
    return CmlBackend(
        parts.connections.cml,
        partial(cml_access, cluster),
        partial(config_map_value, cluster),
        parts.notify,
        settle_seconds=parts.settings.cml_settle_seconds,
        unknown_seconds=parts.settings.cml_unknown_seconds,
        taken_over=parts.taken_over,
    )


def _kubernetes(parts: Parts) -> KubernetesBackend:
    return KubernetesBackend(parts.connections.cluster, parts.cache, parts.keys, parts.clock)


MAKERS: dict[str, Callable[[Parts], Backend]] = {
    "cml": _cml,
    "kubernetes": _kubernetes,
}
"""By type, in the order in which all are told the same."""


def backends(parts: Parts) -> Backends:
    """All of them."""
    return Backends({name: make(parts) for name, make in MAKERS.items()})

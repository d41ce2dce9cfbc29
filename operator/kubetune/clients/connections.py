"""The connections of an operator, shared by all who talk to the same API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.egress import SETTING, Egress
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.settings import Settings


@dataclass(frozen=True)
class Connections:
    """To the API server, and to the workspaces that targets lead to."""

    cluster: KubernetesClient
    cml: CmlClients
    egress: Egress
    """Where those and others that specs lead to may lead."""

    async def close(self) -> None:
        """Close all of them."""
        await self.cml.close()
        await self.cluster.close()


def egress(settings: Settings) -> Egress:
    """The rule of the settings. Raises ValueError naming the variables."""
    try:
        return Egress.parsed(settings.egress_allow, settings.egress_others)
    except ValueError as error:
        raise ValueError(f"{SETTING} or KUBETUNE_EGRESS_OTHERS: {error}") from None


def connect(settings: Settings, may_write: Callable[[], bool]) -> Connections:
    """Those of this machine or pod; ``may_write`` is asked before each change.

    Raises kopf.LoginError without credentials, ValueError when the settings can't be read.
    """
    rule = egress(settings)
    clients = CmlClients(settings.cml_timeout_seconds, egress=rule, may_write=may_write)
    return Connections(KubernetesClient.connect(may_write), clients, rule)

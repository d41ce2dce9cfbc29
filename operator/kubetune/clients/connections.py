"""The connections of an operator, shared by all who talk to the same API."""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.clients.cml import CmlClients
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.settings import Settings


@dataclass(frozen=True)
class Connections:
    """To the API server, and to the workspaces that targets lead to."""

    cluster: KubernetesClient
    cml: CmlClients

    async def close(self) -> None:
        """Close all of them."""
        await self.cml.close()
        await self.cluster.close()


def connect(settings: Settings) -> Connections:
    """Those of this machine or pod. Raises kopf.LoginError without credentials."""
    return Connections(KubernetesClient.connect(), CmlClients(settings.cml_timeout_seconds))

"""Where trackers of each type come from: one for a target and the credentials of a namespace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec, Tracking
from kubetune.clients.cml_access import cml_access
from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.connections import Connections
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.tracking.base import Tracker
from kubetune.tracking.pool import CmlTrackers, TrackerPool
from kubetune.tracking.rest import Credentials


@dataclass(frozen=True)
class TargetTracker:
    """A tracker and what makes it the same one next time."""

    key: str
    tracker: Tracker


class TrackerSource(Protocol):
    """Finds trackers of one type."""

    async def of(self, target: ComputeTargetSpec, namespace: str) -> TargetTracker:
        """The target's tracker. Raises ApiError, ValueError when it can't be reached so."""
        ...


def sources(connections: Connections, pool: TrackerPool) -> Mapping[str, TrackerSource]:
    """One for each type; see kubetune.tracking.facts."""
    cluster = connections.cluster
    return {"mlflow": MlflowSource(cluster, pool), "cml": CmlSource(cluster, connections.cml)}


class MlflowSource:
    """MLflow servers, by address, credentials and certificates."""

    def __init__(self, client: KubernetesClient, pool: TrackerPool) -> None:
        self._client = client
        self._pool = pool

    async def of(self, target: ComputeTargetSpec, namespace: str) -> TargetTracker:
        """See TrackerSource."""
        tracking = target.tracking
        given = await credentials(self._client, namespace, tracking)
        authority = await certificates(self._client, namespace, tracking)
        key = TrackerPool.key(tracking.run_uri, given, authority)
        return TargetTracker(key, self._pool.get(tracking.run_uri, given, authority))


class CmlSource:
    """Experiments and registry of the workspace in which the target's runs are."""

    def __init__(self, client: KubernetesClient, clients: CmlClients) -> None:
        self._client = client
        self._trackers = CmlTrackers(clients)

    async def of(self, target: ComputeTargetSpec, namespace: str) -> TargetTracker:
        """See TrackerSource."""
        cml = target.cml
        if cml is None:
            raise ValueError("spec.tracking.type cml needs a target in CML: give spec.cml")
        api_key, authority = await cml_access(self._client, namespace, cml)
        project = (cml.url, cml.project, api_key, authority)
        return TargetTracker(CmlTrackers.key(*project), self._trackers.get(*project))


async def credentials(
    client: KubernetesClient, namespace: str, tracking: Tracking
) -> Credentials | None:
    """User name and password, or token, of the tracking server; None without a Secret.

    Raises NotFoundError when the Secret is missing, ValueError when its keys are.
    """
    if tracking.credentials_secret_ref is None:
        return None
    secret = await client.get("Secret", namespace, tracking.credentials_secret_ref.name)
    return Credentials.from_secret(secret.get("data") or {})


async def certificates(client: KubernetesClient, namespace: str, tracking: Tracking) -> str | None:
    """PEM certificates of the tracking server's authority, when the target names some."""
    if tracking.ca_bundle is None:
        return None
    bundle = await client.get("ConfigMap", namespace, tracking.ca_bundle.config_map_name)
    return (bundle.get("data") or {}).get(tracking.ca_bundle.key)

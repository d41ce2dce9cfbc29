"""The tracker that a target names, with the credentials of a namespace."""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec, Tracking
from kubetune.clients.cml import CmlClients
from kubetune.clients.kubernetes import ApiError, KubernetesClient
from kubetune.decide.target.states import TrackingProbe
from kubetune.observe.secrets import certificates, cml_access, credentials
from kubetune.tracking.base import Tracker, TrackingError
from kubetune.tracking.pool import CmlTrackers, TrackerPool


@dataclass(frozen=True)
class TargetTracker:
    """A tracker and what makes it the same one next time."""

    key: str
    tracker: Tracker


class Trackers:
    """Finds trackers and probes them."""

    def __init__(
        self, client: KubernetesClient, pool: TrackerPool, *, cml_clients: CmlClients
    ) -> None:
        self._client = client
        self._pool = pool
        self._cml = CmlTrackers(cml_clients)

    async def of(self, target: ComputeTargetSpec, namespace: str) -> TargetTracker:
        """The target's tracker. Raises TrackingError when its Secret or bundle is missing."""
        try:
            return await self._of(target, namespace)
        except (ApiError, ValueError) as error:
            raise TrackingError(f"credentials of {target.tracking_uri}: {error}") from error

    async def probe(self, target: ComputeTargetSpec, namespace: str) -> TrackingProbe:
        """Ask the server for its version and write one small artifact, where that is possible."""
        try:
            tracker = (await self._of(target, namespace)).tracker
            version = await tracker.server_version()
            return TrackingProbe(version=version, storage=await tracker.check_storage())
        except TrackingError as error:
            return TrackingProbe(error=str(error), credentials_refused=error.credentials)
        except (ApiError, ValueError) as error:
            return TrackingProbe(error=f"its certificates or credentials: {error}")

    async def _of(self, target: ComputeTargetSpec, namespace: str) -> TargetTracker:
        if cml := _workspace(target):
            api_key, authority = await cml_access(self._client, namespace, cml)
            project = (cml.url, cml.project, api_key, authority)
            return TargetTracker(CmlTrackers.key(*project), self._cml.get(*project))
        return await self._mlflow(target.tracking, namespace)

    async def _mlflow(self, tracking: Tracking, namespace: str) -> TargetTracker:
        given = await credentials(self._client, namespace, tracking)
        authority = await certificates(self._client, namespace, tracking)
        key = TrackerPool.key(tracking.run_uri, given, authority)
        return TargetTracker(key, self._pool.get(tracking.run_uri, given, authority))


def _workspace(target: ComputeTargetSpec) -> CmlTarget | None:
    """The workspace whose own tracking the target uses."""
    return target.cml if target.tracking.type == "cml" else None

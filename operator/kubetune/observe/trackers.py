"""The tracker that a target names, with the credentials of a namespace."""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.api.compute_target import ComputeTargetSpec, Tracking
from kubetune.clients.kubernetes import ApiError, KubernetesClient
from kubetune.decide.compute_target import TrackingProbe
from kubetune.observe.secrets import certificates, credentials
from kubetune.tracking.base import Tracker, TrackingError
from kubetune.tracking.pool import TrackerPool


@dataclass(frozen=True)
class TargetTracker:
    """A tracker and what makes it the same one next time."""

    key: str
    tracker: Tracker


class Trackers:
    """Finds trackers and probes them."""

    def __init__(self, client: KubernetesClient, pool: TrackerPool) -> None:
        self._client = client
        self._pool = pool

    async def of(self, target: ComputeTargetSpec, namespace: str) -> TargetTracker:
        """The target's tracker. Raises TrackingError when its Secret or bundle is missing."""
        tracking = target.tracking
        try:
            given = await credentials(self._client, namespace, tracking)
            authority = await certificates(self._client, namespace, tracking)
        except (ApiError, ValueError) as error:
            raise TrackingError(f"credentials of {tracking.run_uri}: {error}") from error
        key = TrackerPool.key(tracking.run_uri, given, authority)
        return TargetTracker(key, self._pool.get(tracking.run_uri, given, authority))

    async def probe(self, tracking: Tracking, namespace: str) -> TrackingProbe:
        """Ask the server for its version and write one small artifact."""
        try:
            given = await credentials(self._client, namespace, tracking)
            authority = await certificates(self._client, namespace, tracking)
            tracker = self._pool.get(tracking.run_uri, given, authority)
            version = await tracker.server_version()
            return TrackingProbe(version=version, storage=await tracker.check_storage())
        except TrackingError as error:
            return TrackingProbe(error=str(error), credentials_refused=error.credentials)
        except (ApiError, ValueError) as error:
            return TrackingProbe(error=f"its certificates or credentials: {error}")

"""The tracker that a target names, with the credentials of a namespace."""

from __future__ import annotations

from collections.abc import Mapping

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.clients.kubernetes import ApiError
from kubetune.decide.target.states import TrackingProbe
from kubetune.tracking.base import TrackingError
from kubetune.tracking.sources import TargetTracker, TrackerSource


class Trackers:
    """Finds trackers and probes them; ``sources`` are by the type of tracking."""

    def __init__(self, sources: Mapping[str, TrackerSource]) -> None:
        self._sources = sources

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
            reason = Reason.TRACKING_CREDENTIALS if error.credentials else error.away
            return TrackingProbe(error=str(error), reason=reason)
        except (ApiError, ValueError) as error:
            return TrackingProbe(error=f"its certificates or credentials: {error}")

    async def _of(self, target: ComputeTargetSpec, namespace: str) -> TargetTracker:
        return await self._sources[target.tracking.type].of(target, namespace)

"""Keep one tracker per server and credentials, so that connections and what is known are shared."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.egress import Egress
from kubetune.clients.permission import always
from kubetune.clients.pool import Pool
from kubetune.names import digest
from kubetune.tracking.cml import CmlTracker
from kubetune.tracking.mlflow import MlflowTracker
from kubetune.tracking.rest import Credentials

MAX_TRACKERS = 64


class TrackerPool:
    """Trackers by address, credentials and authorities; the least used ones are closed."""

    def __init__(
        self, timeout_seconds: float, egress: Egress, may_write: Callable[[], bool] = always
    ) -> None:
        self._egress = egress
        self._timeout = timeout_seconds
        self._may_write = may_write
        self._trackers: Pool[MlflowTracker] = Pool(MAX_TRACKERS)

    @staticmethod
    def key(uri: str, credentials: Credentials | None = None, ca_pem: str | None = None) -> str:
        """What makes a tracker the same one; tells nothing about the credentials."""
        given = credentials or Credentials()
        return digest(uri, given.username, given.password, given.token, ca_pem or "")

    def get(
        self, uri: str, credentials: Credentials | None = None, ca_pem: str | None = None
    ) -> MlflowTracker:
        """The tracker for a server; call it again for each use. Needs a running event loop."""
        return self._trackers.get(
            self.key(uri, credentials, ca_pem),
            lambda: MlflowTracker(
                uri, credentials, ca_pem, self._timeout, self._egress, self._may_write
            ),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._trackers.close()


class CmlTrackers:
    """Trackers of projects of CML workspaces, over clients that are shared with others."""

    def __init__(self, clients: CmlClients) -> None:
        self._clients = clients
        self._trackers: OrderedDict[str, CmlTracker] = OrderedDict()

    @staticmethod
    def key(url: str, project: str, api_key: str, ca_pem: str | None = None) -> str:
        """What makes a tracker the same one; tells nothing about the API key."""
        return digest("cml", project, CmlClients.key(url, api_key, ca_pem))

    def get(self, url: str, project: str, api_key: str, ca_pem: str | None = None) -> CmlTracker:
        """The tracker for a project; call it again for each use. Needs a running event loop."""
        client = self._clients.get(url, api_key, ca_pem)
        key = self.key(url, project, api_key, ca_pem)
        tracker = self._trackers.get(key)
        if tracker is None or tracker.client is not client:
            tracker = self._trackers[key] = CmlTracker(client, project)
        self._trackers.move_to_end(key)
        if len(self._trackers) > MAX_TRACKERS:
            self._trackers.popitem(last=False)
        return tracker

"""The clients of all workspaces, one for each workspace, API key and set of authorities."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kubetune.clients.cml import ANSWER_SECONDS, CONNECT_SECONDS, CmlClient
from kubetune.clients.egress import Egress
from kubetune.clients.permission import always
from kubetune.clients.pool import Pool
from kubetune.names import digest

MAX_CLIENTS = 64


class CmlClients:
    """Clients by workspace, API key and authorities; the least used ones are closed.

    ``timeout_seconds`` is for each wait for an answer. ``may_write`` is asked before each change.
    """

    def __init__(
        self,
        timeout_seconds: int = ANSWER_SECONDS,
        *,
        egress: Egress,
        may_write: Callable[[], bool] = always,
    ) -> None:
        self._egress = egress
        self._may_write = may_write
        self._timeouts = (min(CONNECT_SECONDS, timeout_seconds), timeout_seconds)
        self._clients: Pool[CmlClient] = Pool(MAX_CLIENTS)

    @staticmethod
    def key(url: str, api_key: str, ca_pem: str | None = None) -> str:
        """What makes a client the same one; tells nothing about the credential."""
        return digest(url, api_key, ca_pem or "")

    def get(self, url: str, api_key: str, ca_pem: str | None = None) -> CmlClient:
        """The client for a workspace; call it again for each use. Needs a running event loop."""
        return self._clients.get(
            self.key(url, api_key, ca_pem),
            lambda: CmlClient(
                url,
                api_key,
                ca_pem,
                timeouts=self._timeouts,
                egress=self._egress,
                may_write=self._may_write,
            ),
        )

    async def answered(self, seconds: float) -> None:
        """Return when no write of any client is under way any more, or after so long."""
        await asyncio.gather(*(client.answered(seconds) for client in self._clients.items()))

    async def close(self) -> None:
        """Close all connections."""
        await self._clients.close()

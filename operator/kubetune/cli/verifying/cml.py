"""Reads a registered version from the registry of a CML workspace."""

from __future__ import annotations

from kubetune.cli.connection import NotThereError
from kubetune.cli.verifying.registry import Stored
from kubetune.clients.cml import CmlClient
from kubetune.tracking.base import RegisteredVersion, TrackingError
from kubetune.tracking.cml import CmlTracker


class CmlVersions:
    """One project of a workspace; the statement is on the run that a version was made of."""

    def __init__(self, url: str, project: str, api_key: str, ca_pem: str | None) -> None:
        self._url = url
        self._client = CmlClient(url, api_key, ca_pem)
        self._tracker = CmlTracker(self._client, project)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def version(self, name: str, number: int) -> RegisteredVersion:
        """A version. Raises NotThereError."""
        try:
            found = await self._tracker.version(name, number)
        except TrackingError as error:
            raise NotThereError(f"version {number} of {name}: {error}") from None
        if found is None:
            raise NotThereError(f"the registry at {self._url} has no version {number} of {name}")
        return found

    async def stored(self, version: RegisteredVersion, expected: str) -> Stored:
        """Raises NotThereError: the files can be read within the workspace alone."""
        raise NotThereError(
            "the API of CML hands out no artifacts; a run that loads the model compares them"
        )

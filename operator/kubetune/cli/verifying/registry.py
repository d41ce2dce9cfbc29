"""Reads a registered version and the digests of its files from an MLflow server."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from kubetune.api import JsonObject
from kubetune.api.bounded import DOCUMENT, json_object
from kubetune.api.run.plan import FILE_LIST, NOT_LISTED
from kubetune.cli.connection import NotThereError
from kubetune.clients.addresses import segment
from kubetune.tracking.base import RegisteredVersion, TrackingError
from kubetune.tracking.mlflow_answers import UNREADABLE, version_of
from kubetune.tracking.rest import Credentials, RestClient

PROXY = "mlflow-artifacts:/"
LOGGED_MODEL = "models:/"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
MAX_FILES = 10_000
LONGEST_SILENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Stored:
    """The files of a model as they lie in the artifact store."""

    list_digest: str | None
    """Of the list of files; None where it is missing."""
    listed: Mapping[str, str]
    """What the list says; nothing where it isn't read."""
    files: Mapping[str, str]
    """The digest of each file that a list has."""


class Registry:
    """One server; credentials come from the environment, by MLflow's names."""

    def __init__(self, uri: str, credentials: Credentials) -> None:
        self._uri = uri.rstrip("/")
        self._credentials = credentials
        self._rest = RestClient(uri, credentials, timeout_seconds=30.0)

    @staticmethod
    def credentials() -> Credentials:
        """Those of the environment."""
        return Credentials(
            username=os.environ.get("MLFLOW_TRACKING_USERNAME", ""),
            password=os.environ.get("MLFLOW_TRACKING_PASSWORD", ""),
            token=os.environ.get("MLFLOW_TRACKING_TOKEN", ""),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def version(self, name: str, number: int) -> RegisteredVersion:
        """A version. Raises NotThereError."""
        query = {"name": name, "version": str(number)}
        try:
            answer = await self._rest.call("GET", "model-versions/get", query=query)
            return version_of(answer["model_version"])
        except (TrackingError, *UNREADABLE) as error:
            raise NotThereError(f"version {number} of {name}: {error}") from None

    async def stored(self, version: RegisteredVersion, expected: str) -> Stored:
        """The digests of its files, each read whole. Raises NotThereError.

        ``expected`` is the digest that the list of its files has.
        """
        try:
            root = await self._root(version)
            sizes = await self._list(root, "")
            if FILE_LIST not in sizes:
                return Stored(None, {}, {})
            digests: dict[str, str] = {}
            listed: JsonObject = {}
            async with aiohttp.ClientSession(headers=self._credentials.headers()) as session:
                for path in sorted(sizes.keys() - NOT_LISTED):
                    digests[path] = await self._digest(session, f"{root}/{path}")
            url = _url(f"{root}/{FILE_LIST}")
            text = await self._rest.text("GET", url, retry=True, limits=DOCUMENT)
            own = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
            if own == expected:
                listed = json_object(text, DOCUMENT)
            return Stored(own, {key: str(value) for key, value in listed.items()}, digests)
        except (TrackingError, aiohttp.ClientError, TimeoutError, *UNREADABLE) as error:
            raise NotThereError(f"the files can't be read: {error}") from None

    async def _root(self, version: RegisteredVersion) -> str:
        """Where the server keeps the artifacts, as a path of its own."""
        query = {"name": version.name, "version": str(version.version)}
        answer = await self._rest.call("GET", "model-versions/get-download-uri", query=query)
        address = str(answer["artifact_uri"])
        if address.startswith(LOGGED_MODEL):
            model_id = address.removeprefix(LOGGED_MODEL).partition("/")[0]
            answer = await self._rest.call("GET", f"logged-models/{segment(model_id)}")
            address = str(answer["model"]["info"]["artifact_uri"])
        if not address.startswith(PROXY):
            raise NotThereError("they aren't served by MLflow: download and compare them by hand")
        return address.removeprefix(PROXY).strip("/")

    async def _list(self, root: str, folder: str) -> dict[str, int]:
        path = f"{root}/{folder}".strip("/")
        text = await self._rest.text("GET", ARTIFACTS, query={"path": path}, retry=True)
        found: dict[str, int] = {}
        for entry in json_object(text, DOCUMENT).get("files") or ():
            name = str(entry["path"]).rpartition("/")[2]
            relative = f"{folder}/{name}".strip("/")
            if entry.get("is_dir"):
                found |= await self._list(root, relative)
            else:
                found[relative] = int(entry.get("file_size") or 0)
            if len(found) > MAX_FILES:
                raise NotThereError(f"there are more than {MAX_FILES:,} of them")
        return found

    async def _digest(self, session: aiohttp.ClientSession, path: str) -> str:
        """A file's digest; gigabytes take as long as they need, but not without a byte."""
        limits = aiohttp.ClientTimeout(total=None, sock_read=LONGEST_SILENCE_SECONDS)
        hasher = hashlib.sha256()
        async with session.get(f"{self._uri}{_url(path)}", timeout=limits) as answer:
            answer.raise_for_status()
            async for piece in answer.content.iter_chunked(1024 * 1024):
                await asyncio.to_thread(hasher.update, piece)
        return f"sha256:{hasher.hexdigest()}"


def _url(path: str) -> str:
    return f"{ARTIFACTS}/" + "/".join(segment(part) for part in path.split("/"))

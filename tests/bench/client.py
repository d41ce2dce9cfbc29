"""A bare asyncio client of the API server: what the floor is measured with.

It does nothing that a client could leave out: no retries, no models, answers are decoded only
when somebody needs them.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import yaml
from kubetune.api import JsonObject

MERGE_PATCH = "application/merge-patch+json"


class Client:
    """Kept-alive connections with the certificate of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server: str = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
        with tempfile.NamedTemporaryFile() as identity:  # ssl reads certificates from files only
            identity.write(base64.b64decode(user["client-certificate-data"]))
            identity.write(base64.b64decode(user["client-key-data"]))
            identity.flush()
            context.load_cert_chain(identity.name)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=64),
            timeout=aiohttp.ClientTimeout(total=60),
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        body: str | JsonObject | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        """The raw answer. Raises RuntimeError with the server's message on an error."""
        text = body if isinstance(body, str) or body is None else json.dumps(body)
        headers = {"Content-Type": content_type, "Accept": accept}
        async with self._session.request(
            method, self._server + path, data=text, headers=headers
        ) as response:
            answer = await response.read()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer[:1000].decode(errors='replace')}")
            return answer

    async def get(self, path: str, accept: str = "application/json") -> JsonObject:
        return json.loads(await self.send("GET", path, accept=accept))

    async def create(self, path: str, body: str | JsonObject) -> JsonObject:
        return json.loads(await self.send("POST", path, body))

    async def patch(self, path: str, body: str | JsonObject) -> bytes:
        return await self.send("PATCH", path, body, MERGE_PATCH)

    async def watch(self, path: str, version: str) -> AsyncIterator[JsonObject]:
        """Events of a collection after a resource version, until the caller stops."""
        url = f"{self._server}{path}?watch=true&resourceVersion={version}"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(url, timeout=timeout) as response:
            async for line in response.content:
                yield json.loads(line)

"""The few calls to the API server that the process node needs, over one aiohttp session."""

import base64
import json
import os
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Object = dict[str, Any]
"""A Kubernetes object, or a part of one, as its JSON."""

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ApiError(Exception):
    """The API server's refusal: `status` is the HTTP status, the text its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)
"""What a call raises when there was no answer; trying again later may help."""


class Client:
    """An API client with the identity and server of a kubeconfig's current context."""

    def __init__(self, kubeconfig: Path) -> None:
        cluster, user = _current_context(kubeconfig)
        self.server: str = cluster["server"].rstrip("/")
        self._tls = _tls_context(cluster, user)
        token = user.get("token")
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=50),
            timeout=aiohttp.ClientTimeout(total=30),
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str) -> Object:
        return await self._call("GET", path, query=query)

    async def create(self, path: str, body: Object) -> Object:
        return await self._call("POST", path, body)

    async def patch(self, path: str, body: Object, kind: str = MERGE) -> Object:
        return await self._call("PATCH", path, body, kind)

    async def delete(self, path: str, body: Object) -> Object:
        return await self._call("DELETE", path, body)

    async def watch(self, path: str, **query: str) -> AsyncIterator[Object]:
        """Yield watch events until the server ends the watch.

        Raises ApiError (410 when the resource version is too old) or one of UNREACHABLE.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_read=330)
        query = {"watch": "1", "timeoutSeconds": "300", **query}
        async with self._session.get(self.server + path, params=query, timeout=timeout) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await _message(answer))
            pending = b""
            # Not readline(): its limit on a line's length is below that of a Kubernetes object.
            async for chunk in answer.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"]["message"])
                    yield event

    async def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        kind: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Object:
        async with self._session.request(
            method,
            self.server + path,
            params=query,
            data=None if body is None else json.dumps(body),
            headers={} if body is None else {"Content-Type": kind},
        ) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await _message(answer))
            return await answer.json()


async def _message(answer: aiohttp.ClientResponse) -> str:
    text = await answer.text()
    try:
        return json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        return text or f"HTTP {answer.status}"


def _current_context(kubeconfig: Path) -> tuple[Object, Object]:
    config = yaml.safe_load(kubeconfig.read_text())

    def entry(kind: str, name: str) -> Object:
        for item in config.get(f"{kind}s") or ():
            if item["name"] == name:
                return item[kind]
        raise ValueError(f"{kubeconfig}: there is no {kind} named {name!r}")

    context = entry("context", config.get("current-context", ""))
    return entry("cluster", context["cluster"]), entry("user", context["user"])


def _tls_context(cluster: Object, user: Object) -> ssl.SSLContext:
    authority = _embedded(cluster, "certificate-authority")
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    certificate, key = (
        _embedded(user, "client-certificate"),
        _embedded(user, "client-key"),
    )
    if certificate and key:
        # The ssl module reads certificates from files only; the key stays in our own 0600 file
        # for no longer than that takes.
        descriptor, name = tempfile.mkstemp()
        try:
            os.write(descriptor, certificate + b"\n" + key)
            context.load_cert_chain(name)
        finally:
            os.close(descriptor)
            Path(name).unlink()
    return context


def _embedded(entry: Object, field: str) -> bytes | None:
    if data := entry.get(f"{field}-data"):
        return base64.b64decode(data)
    return Path(entry[field]).read_bytes() if entry.get(field) else None

"""The session of kopf's lists and watches, which tells what they show as a whole.

kopf hands on single objects. That a list was complete, so that what it hasn't is gone, it
tells nobody, though it lists anew whenever a watch can't be continued.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import kopf
from yarl import URL

from kubetune.clients.kubernetes import Answer, KubernetesClient, find_connection, open_session

JsonObject = dict[str, Any]

NAMESPACE = re.compile(r"/namespaces/([^/]+)(?=/)")


class Listener(Protocol):
    """Who wants to know of lists."""

    def listed(
        self, kind: str, namespace: str | None, found: Mapping[tuple[str, str], str], version: int
    ) -> None:
        """All objects of a kind, in a namespace or the cluster: uids by namespace and name."""
        ...


@dataclass(frozen=True, kw_only=True)
class WatchSession(kopf.AiohttpSession):
    """A session for kopf, which closes it and, after a 401, asks for another.

    Equal when the credentials are: kopf gives up on those that were refused before, where it
    would try a session that only looks new without end.
    """

    aiohttp_session: aiohttp.ClientSession = field(compare=False)
    connection: kopf.ConnectionInfo


def open_watch_session(kinds: Iterable[str], listener: Listener) -> WatchSession:
    """A session for kopf's watches of these kinds with the credentials that are valid now."""
    connection = find_connection()
    lists = Lists(Collections(connection.server, kinds), listener)

    class WatchAnswer(Answer):
        async def json(self, **options: Any) -> Any:
            body = await super().json(**options)
            if self.ok:
                lists.read(self.url, body)
            return body

    return WatchSession(
        server=connection.server,
        default_namespace=connection.default_namespace,
        aiohttp_session=open_session(connection, WatchAnswer),
        connection=connection,
    )


class Collections:
    """Which kind and namespace a URL lists or watches."""

    def __init__(self, server: str, kinds: Iterable[str]) -> None:
        self._prefix = urlsplit(server).path.rstrip("/")
        self._kinds = {KubernetesClient.path(kind, None): kind for kind in kinds}

    def find(self, url: URL) -> tuple[str, str | None] | None:
        """Kind and namespace, which is None for the cluster; None for any other URL."""
        path = url.path.removeprefix(self._prefix)
        namespace = NAMESPACE.search(path)
        kind = self._kinds.get(NAMESPACE.sub("", path, 1))
        return (kind, namespace[1] if namespace else None) if kind else None


class Lists:
    """Puts pages together and tells of each list once it is complete."""

    def __init__(self, collections: Collections, listener: Listener) -> None:
        self._collections = collections
        self._listener = listener
        self._pages: dict[tuple[str, str | None], dict[tuple[str, str], str]] = {}

    def read(self, url: URL, body: JsonObject) -> None:
        """Take in the answer to a GET."""
        scope = self._collections.find(url)
        if scope is None:
            return
        if not url.query.get("continue"):
            # The first page, also after a list that broke off.
            self._pages[scope] = {}
        found = self._pages.setdefault(scope, {})
        for item in body["items"] or ():
            metadata = item["metadata"]
            found[metadata.get("namespace", ""), metadata["name"]] = metadata["uid"]
        if not body["metadata"].get("continue"):
            del self._pages[scope]
            self._listener.listed(*scope, found, int(body["metadata"]["resourceVersion"]))

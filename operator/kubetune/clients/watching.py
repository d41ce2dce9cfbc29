"""The session of kopf's lists and watches: what they show as a whole, and what goes wrong.

kopf logs in, lists, watches, and begins anew after errors. Its way of an object to a handler costs
more than taking the object in, and that a list was complete, so that what it hasn't is gone, it
tells nobody. It watches the kinds that it has found before they are served or after they were, and
ends at the first 404. So here

- objects are handed on as they are read, and kopf sees only up to which version;
- our kinds are always said to be served, and a list of one that isn't is tried until it is;
- every complete list is told, and so is every sign of life of a watch;
- every error of a watch that isn't over soon makes kopf list again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import aiohttp
import kopf
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from pydantic_core import from_json
from yarl import URL

from kubetune.api import API_VERSION, GROUP, VERSION, JsonObject
from kubetune.api.foreign import answered, error_fields, first_line, text_of
from kubetune.api.kinds.table import BY_KIND, KINDS
from kubetune.clients.deep_objects import cut, nests_deeply
from kubetune.clients.kubernetes import Answer, KubernetesClient, find_connection, open_session

Scope = tuple[str, str | None]
"""A kind, and the namespace in which it is watched, None for the whole cluster."""

logger = logging.getLogger(__name__)

NAMESPACE = re.compile(r"/namespaces/([^/]+)(?=/)")
EXPIRED = b'{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}\n'
"""What makes kopf list again."""
BOOKMARK = b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "%s"}}}\n'
"""From where kopf goes on when the connection has ended."""
OF_OBJECTS = ("ADDED", "MODIFIED", "DELETED")
AT_ONCE = 16
"""Objects taken in before somebody else has the loop: one of another tenant is soon among them."""
PAUSE_SECONDS = 1.0
ABSENT_SECONDS = 3.0
"""So long a kind must not be served before its objects count as gone: no glitch is that long."""


class Listener(Protocol):
    """Who wants to know what the watches show, and how they fare."""

    def seen(self, body: JsonObject) -> None:
        """An object was listed, or has appeared or changed."""
        ...

    def gone(self, body: JsonObject) -> None:
        """An object was deleted."""
        ...

    def listed(
        self, kind: str, namespace: str | None, found: Mapping[tuple[str, str], str], version: int
    ) -> None:
        """All objects of a kind, in a namespace or the cluster: uids by namespace and name."""
        ...

    def not_served(self, kind: str, namespace: str | None) -> None:
        """The kind isn't installed, at least not now: it has no objects."""
        ...

    def forbidden(self, kind: str, namespace: str | None) -> None:
        """The operator may not see these objects, at least not now."""
        ...

    def shown(self, kind: str, namespace: str | None) -> None:
        """An answer, an event or a bookmark came."""
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
    urls = Urls(connection.server, kinds)
    lists, refusals = Lists(urls, listener), Refusals(connection.server, listener)

    class WatchAnswer(Answer):
        """The answer to a list, and to the questions of kopf which kinds there are."""

        async def json(self, **options: Any) -> Any:
            if urls.path(self.url) == OUR_KINDS_PATH:
                return OUR_KINDS
            try:
                body = await super().json(**options)
            except ValueError as error:
                # As of a proxy in between: kopf lists again after this, and ends after any other.
                raise aiohttp.ClientPayloadError(f"no JSON from {self.url}: {error}") from error
            if self.ok and urls.path(self.url) == "/apis":
                others = [group for group in body["groups"] if group["name"] != GROUP]
                return {**body, "groups": [*others, OUR_GROUP]}
            return await lists.read(self.url, body) if self.ok else body

    async def answer(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        response = await handler(request)
        if urls.path(request.url) == OUR_KINDS_PATH and response.status == 404:
            # None of them is served yet, but will be.
            response.status = 200
        scope = urls.scope(request.url)
        if scope is None or response.status in (401, 429) or response.status >= 500:
            # kopf knows what to do: it logs in, or waits and tries again.
            return response
        listener.shown(*scope)
        watching = request.url.query.get("watch") == "true"
        if response.status < 400:
            refusals.over(scope, watching)
            if watching:
                response.content = cast("Any", Events(response.content, scope, listener))
            return response
        await refusals.tell(scope, response, session)
        if not watching:
            raise aiohttp.ClientPayloadError(f"{request.url.path}: HTTP {response.status}")
        response.status = 200
        response.content = cast("Any", Expired(response.content))
        return response

    session = open_session(connection, WatchAnswer, [answer])
    return WatchSession(
        server=connection.server,
        default_namespace=connection.default_namespace,
        aiohttp_session=session,
        connection=connection,
    )


OUR_KINDS_PATH = f"/apis/{API_VERSION}"
OUR_GROUP = {
    "name": GROUP,
    "versions": [{"groupVersion": API_VERSION, "version": VERSION}],
    "preferredVersion": {"groupVersion": API_VERSION, "version": VERSION},
}
OUR_KINDS = {
    "kind": "APIResourceList",
    "groupVersion": API_VERSION,
    "resources": [
        {
            "name": kind.plural,
            "singularName": kind.singular,
            "kind": kind.kind,
            "namespaced": kind.namespaced,
            "verbs": ["list", "watch", "patch"],
        }
        for kind in KINDS
    ],
}


class Urls:
    """What a URL is about."""

    def __init__(self, server: str, kinds: Iterable[str]) -> None:
        self._prefix = urlsplit(server).path.rstrip("/")
        self._kinds = {KubernetesClient.path(kind, None): kind for kind in kinds}

    def path(self, url: URL) -> str:
        """The path on the API server, which may itself be behind one."""
        return url.path.removeprefix(self._prefix)

    def scope(self, url: URL) -> Scope | None:
        """What it lists or watches; None for another URL."""
        path = self.path(url)
        namespace = NAMESPACE.search(path)
        kind = self._kinds.get(NAMESPACE.sub("", path, 1))
        return (kind, namespace[1] if namespace else None) if kind else None


class Lists:
    """Hands the objects of pages on, and tells of each list once it is complete."""

    def __init__(self, urls: Urls, listener: Listener) -> None:
        self._urls = urls
        self._listener = listener
        self._pages: dict[Scope, dict[tuple[str, str], str]] = {}

    async def read(self, url: URL, body: JsonObject) -> JsonObject:
        """Take in the answer to a GET; what is left of it for kopf."""
        scope = self._urls.scope(url)
        if scope is None:
            return body
        if not url.query.get("continue"):
            # The first page, also after a list that broke off.
            self._pages[scope] = {}
        found = self._pages.setdefault(scope, {})
        items: list[JsonObject] = body["items"] or []
        for item in items:
            metadata = item["metadata"]
            found[metadata.get("namespace", ""), metadata["name"]] = metadata["uid"]
        if not body["metadata"].get("continue"):
            del self._pages[scope]
            self._listener.listed(*scope, found, int(body["metadata"]["resourceVersion"]))
        for number, item in enumerate(items, start=1):
            # Items of a list don't say it.
            item.setdefault("apiVersion", body.get("apiVersion"))
            hand_on(self._listener, scope[0], item)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        return {**body, "items": []}


def hand_on(listener: Listener, kind: str, body: JsonObject, *, gone: bool = False) -> None:
    """Tell of an object. Whatever is wrong with one, the others go on."""
    body["kind"] = kind
    try:
        if gone:
            listener.gone(body)
        else:
            listener.seen(body)
    except Exception:
        metadata = body["metadata"]
        named = kind, metadata.get("namespace", ""), metadata.get("name", "")
        logger.exception("%s %s/%s can't be taken in", *named)


class Refusals:
    """Answers to lists and watches other than objects, each followed by a pause."""

    def __init__(self, server: str, listener: Listener) -> None:
        self._server = server.rstrip("/")
        self._listener = listener
        self._since: dict[Scope, tuple[int, float]] = {}
        """The status that a list was refused with, and since when."""
        self._told: set[Scope] = set()

    def over(self, scope: Scope, watching: bool) -> None:
        """A list was answered; that a watch was tells nothing, it may end at once."""
        if not watching and self._since.pop(scope, None):
            logger.info("%s is listed again", _named(scope))
            self._told.discard(scope)

    async def tell(
        self, scope: Scope, response: ClientResponse, session: aiohttp.ClientSession
    ) -> None:
        """Tell of a refusal once it is sure."""
        kind, status = scope[0], response.status
        text = text_of(error_fields(await response.read()).get("message"))
        told = answered(status, response.headers.get("Content-Type", ""), text)
        now = asyncio.get_running_loop().time()
        before, since = self._since.get(scope, (0, now))
        if status != before:
            logger.warning("%s can't be listed or watched, %s", _named(scope), told)
            since = now
        self._since[scope] = status, since
        if status == 403 and scope not in self._told:
            self._told.add(scope)
            self._listener.forbidden(*scope)
        absent = status == 404 and kind in BY_KIND and now - since >= ABSENT_SECONDS
        if absent and scope not in self._told and not await self._serves(kind, session):
            self._told.add(scope)
            self._listener.not_served(*scope)
        await asyncio.sleep(PAUSE_SECONDS)

    async def _serves(self, kind: str, session: aiohttp.ClientSession) -> bool:
        """Whether the API server has the kind: a 404 alone may come from anywhere in between."""
        groups = await self._read("/apis", session)
        if groups is None or groups.get("kind") != "APIGroupList":
            return True
        versions = {
            version["groupVersion"] for group in groups["groups"] for version in group["versions"]
        }
        if API_VERSION not in versions:
            return False
        kinds = await self._read(OUR_KINDS_PATH, session)
        if kinds is None or kinds.get("kind") != "APIResourceList":
            return True
        return kind in {resource["kind"] for resource in kinds["resources"]}

    async def _read(self, path: str, session: aiohttp.ClientSession) -> JsonObject | None:
        async with session.get(self._server + path, middlewares=()) as response:
            if response.status != 200:
                return None
            with contextlib.suppress(ValueError):
                return cast("JsonObject", from_json(await response.read()))
            return None


class Stream:
    """The stream of a watch, but for how it is read."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)


class Events(Stream):
    """The events of a watch, handed on as they come; kopf gets bookmarks, and one kind of error."""

    def __init__(self, content: aiohttp.StreamReader, scope: Scope, listener: Listener) -> None:
        super().__init__(content)
        self._scope = scope
        self._listener = listener

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """What came, as of a StreamReader."""
        rest = b""
        async for data in self._content.iter_chunked(size):
            self._listener.shown(*self._scope)
            # The last line may have broken off.
            *lines, rest = (rest + data).split(b"\n")
            version = ""
            for number, line in enumerate(filter(None, lines), start=1):
                try:
                    version = await self._take(line)
                except _EndedError as ended:
                    logger.info("the watch of %s ends: %s", _named(self._scope), ended)
                    # A server that is overloaded or not ready yet says the same at once again.
                    await asyncio.sleep(PAUSE_SECONDS)
                    yield EXPIRED
                    return
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
            if version:
                yield BOOKMARK % version.encode()

    async def _take(self, line: bytes) -> str:
        """Hand an event on; its version. Raises _EndedError."""
        try:
            event = from_json(await _cut(line))
            event_type, body = event["type"], event["object"]
            version = str(body["metadata"]["resourceVersion"])
        except (ValueError, LookupError, TypeError):
            # An error of the API server, which has no version, or of something in between.
            raise _EndedError(first_line(line[:300].decode(errors="replace"))) from None
        if event_type in OF_OBJECTS:
            hand_on(self._listener, self._scope[0], body, gone=event_type == "DELETED")
        return version


class _EndedError(Exception):
    """What came instead of an event."""


class Expired(Stream):
    """The stream of a watch that can't be continued."""

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """The one line."""
        yield EXPIRED


async def _cut(line: bytes) -> bytes:
    return await asyncio.to_thread(cut, line) if nests_deeply(line) else line


def _named(scope: Scope) -> str:
    kind, namespace = scope
    return f"{kind} in namespace {namespace}" if namespace else kind

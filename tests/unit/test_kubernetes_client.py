"""The thin client's sessions, its own and kopf's, against a server that checks tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubetune.clients.kubernetes import (
    ApiError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.clients.watching import open_watch_session
from kubetune.handlers import Feed
from kubetune.observe.cache import ObjectCache
from kubetune.queue import WorkQueue


class Cluster:
    """A server behind one token, and the kubeconfig that names both."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._token = ""
        application = web.Application()
        application.router.add_get("/object", self._answer)
        application.router.add_get("/proxy", self._page)
        application.router.add_get("/garbled", self._garbled)
        self.server = TestServer(application)

    def accept(self, token: str) -> None:
        """From now on this token only."""
        self._token = token

    def hand_out(self, token: str) -> None:
        """What a log-in finds."""
        named = {"cluster": "here", "user": "operator"}
        content = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": named}],
            "clusters": [{"name": "here", "cluster": {"server": str(self.server.make_url("/"))}}],
            "users": [{"name": "operator", "user": {"token": token}}],
        }
        self._kubeconfig.write_text(yaml.safe_dump(content))

    async def _answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return web.json_response({"kind": "Status", "reason": "Unauthorized"}, status=401)
        return web.json_response({"name": "größer", "none": None, "share": 0.5, "items": [1, {}]})

    async def _garbled(self, request: web.Request) -> web.Response:
        return web.Response(body=b"\x1f\x8b of a proxy that keeps no header")

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(status=404, text="<html>no such page</html>", content_type="text/html")


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    cluster = Cluster(tmp_path / "kubeconfig")
    await cluster.server.start_server()
    cluster.accept("first")
    cluster.hand_out("first")
    yield cluster
    await cluster.server.close()


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubernetesClient]:
    client = KubernetesClient.connect()
    yield client
    await client.close()


async def test_an_answer_is_plain_values(client: KubernetesClient):
    answer = await client.request("GET", "/object")
    assert answer == {"name": "größer", "none": None, "share": 0.5, "items": [1, {}]}


async def test_an_error_of_something_in_between_is_told_without_its_text(client: KubernetesClient):
    with pytest.raises(NotFoundError, match=r"^HTTP 404 \(text/") as caught:
        await client.request("GET", "/proxy")
    assert "no such page" not in str(caught.value)


async def test_a_rotated_token_is_read_anew(cluster: Cluster, client: KubernetesClient):
    await client.request("GET", "/object")
    cluster.accept("second")
    with pytest.raises(ApiError) as refused:
        await client.request("GET", "/object")
    assert refused.value.status == 401
    cluster.hand_out("second")
    assert await client.request("GET", "/object")


async def test_watch_sessions_are_as_new_as_their_credentials(cluster: Cluster):
    """By this kopf knows that a log-in has found nothing but what was refused before."""
    feed = Feed(ObjectCache(), WorkQueue())
    before, again = open_watch_session((), feed), open_watch_session((), feed)
    cluster.hand_out("second")
    renewed = open_watch_session((), feed)
    try:
        assert before == again
        assert before != renewed
        async with before.aiohttp_session.get(f"{before.server}object") as response:
            assert (await response.json())["name"] == "größer"
    finally:
        for session in (before, again, renewed):
            await session.aiohttp_session.close()


async def test_a_list_that_is_no_json_is_asked_for_again(cluster: Cluster):
    """After this error kopf lists anew; any other would end the operator."""
    session = open_watch_session((), Feed(ObjectCache(), WorkQueue()))
    try:
        async with session.aiohttp_session.get(f"{session.server}garbled") as response:
            with pytest.raises(aiohttp.ClientPayloadError, match=r"no JSON from .*garbled"):
                await response.json()
    finally:
        await session.aiohttp_session.close()

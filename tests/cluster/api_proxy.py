"""A reverse proxy before the API server whose bad days a test arranges.

It speaks plain HTTP to the operator and is its administrator towards the API server.
"""

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml
from aiohttp import web

from tests.cluster.api_client import administrator

T = TypeVar("T")

COLLECTION = re.compile(r"/([a-z]+)$")
EXPIRED = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": "too old resource version: 1 (2)",
        "reason": "Expired",
        "code": 410,
    },
}
HOP_BY_HOP = {"Transfer-Encoding", "Content-Length", "Connection", "Content-Encoding"}


class ApiProxy:
    """Use as a context manager; ``kubeconfig`` names it, and no credentials."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self._server = config["clusters"][0]["cluster"]["server"]
        self._context = administrator(config, folder)
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: list[web.Request] = []
        self.down = False
        """Every request is cut off. Set by ``cut`` and ``mend``."""
        self.expired: set[str] = set()
        """Plurals whose next watch is told that its version has expired."""
        self.silent: set[str] = set()
        """Plurals whose watches get no word, though their connections stay."""
        self.refused: dict[str, int] = {}
        """The status with which lists and watches of a plural are answered."""
        self.held = ""
        """Changes whose path holds this text wait for as long as it is set."""
        self.asked: list[str] = []
        """Plurals of lists and watches as they came, ``watch `` before those of watches."""

    def __enter__(self) -> "ApiProxy":
        self._thread.start()
        self.kubeconfig = self._folder / "proxied.kubeconfig"
        url = self._await(self._start())
        content = {
            "current-context": "proxied",
            "contexts": [{"name": "proxied", "context": {"cluster": "proxied", "user": "none"}}],
            "clusters": [{"name": "proxied", "cluster": {"server": url}}],
            "users": [{"name": "none", "user": {"token": "none"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(content))
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._await(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Break every connection and refuse what comes."""
        self.down = True
        self._await(self._break(None))

    def mend(self, expired: Iterable[str] = ()) -> None:
        """Serve again; the next watch of these plurals is told that its version has expired."""
        self.expired = set(expired)
        self.down = False

    def break_off(self, plural: str) -> None:
        """Break the connections of one kind's watches."""
        self._await(self._break(plural))

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> str:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        )
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _break(self, plural: str | None) -> None:
        for request in list(self._open):
            if plural in (None, _plural(request)) and request.transport:
                request.transport.abort()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return _cut_off(request)
        plural, watching = _plural(request), request.query.get("watch") == "true"
        if request.method == "GET":
            self.asked.append(f"watch {plural}" if watching else plural)
            if status := self.refused.get(plural):
                body = {"kind": "Status", "status": "Failure", "code": status}
                return web.json_response(body | {"message": "as the test asked for"}, status=status)
        if watching and plural in self.expired:
            self.expired.discard(plural)
            return web.Response(text=json.dumps(EXPIRED) + "\n", content_type="application/json")
        self._open.append(request)
        try:
            if watching and plural in self.silent:
                await asyncio.Event().wait()
            # Another thread, that of the test, sets it.
            while self.held and request.method != "GET" and self.held in request.path:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            return await self._forward(request)
        except (aiohttp.ClientError, ConnectionError):
            return _cut_off(request)
        finally:
            self._open.remove(request)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in ("Host", "Authorization", *HOP_BY_HOP)
        }
        # A long list comes compressed to whom it is asked for, and so is passed on as it is.
        headers["Accept-Encoding"] = "identity"
        async with self._session.request(
            request.method,
            self._server + request.raw_path,
            headers=headers,
            data=await request.read() or None,
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name not in HOP_BY_HOP:
                    response.headers[name] = value
            await response.prepare(request)
            async for data in answer.content.iter_any():
                if self.down:
                    return _cut_off(request)
                await response.write(data)
            with contextlib.suppress(ConnectionError):
                await response.write_eof()
            return response


def _plural(request: web.Request) -> str:
    found = COLLECTION.search(request.path)
    return found[1] if found else ""


def _cut_off(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response(status=503)

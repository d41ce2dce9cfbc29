"""Servers on loopback that stand for a workspace on a good or a bad day, and their client."""

import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from kubetune.clients.cml import CmlClient

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071.8293a4b5c6d7e8f9"
PAGE = (
    "<!DOCTYPE html><html><head><title>502 Bad &amp; Ugly</title></head><body>nginx</body></html>"
)


class Workspace:
    """A server on loopback that answers as a test says and remembers what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.asked: list[str] = []
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path_qs}")
        return await self._handler(request)


@asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Workspace]:
    workspace = Workspace(handler)
    runner = web.ServerRunner(web.Server(workspace.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    workspace.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield workspace
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(
    handler: Handler, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncGenerator[tuple[CmlClient, Workspace]]:
    async with serving(handler, tls) as workspace:
        client = CmlClient(workspace.url, KEY, **options)
        try:
            yield client, workspace
        finally:
            await client.close()


def answering(
    body: Any = None, status: int = 200, headers: dict[str, str] | None = None
) -> Handler:
    """Answers everything alike: a dict as JSON, text as it is."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        kind = "application/json" if not isinstance(body, str) else "text/html"
        return web.Response(status=status, text=text, content_type=kind, headers=headers)

    return handle


def refusal(code: int, message: str) -> dict[str, Any]:
    return {"error": message, "code": code, "message": message, "details": []}

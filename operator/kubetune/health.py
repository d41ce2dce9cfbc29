"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubetune.clients.kubernetes import ApiError, KubernetesClient
from kubetune.observe.watches import Watches

ANSWER_SECONDS = 0.5
"""A kubelet waits a second for /healthz."""


class Health:
    """Fails when a watch shows nothing for long although the API server is there.

    While the API server is away a new process could do no better.
    """

    def __init__(
        self, watches: Watches, client: KubernetesClient, silence: float, ready: asyncio.Event
    ) -> None:
        self._watches = watches
        self._client = client
        self._silence = silence
        self._ready = ready

    async def serve(self, address: str, port: int) -> web.AppRunner:
        """Answer until the runner is cleaned up."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address, port).start()
        return runner

    async def _healthz(self, _: web.Request) -> web.Response:
        if not self._ready.is_set():
            return web.Response(status=503, text="starting\n")
        silent = self._watches.silent(self._silence)
        if not silent or not await self._api_server_answers():
            return web.Response(text="ok\n")
        lines = [
            f"the watch of {kind}{f' in {namespace}' if namespace else ''} has shown nothing for"
            f" {seconds:.0f} s\n"
            for (kind, namespace), seconds in sorted(silent.items(), key=str)
        ]
        return web.Response(status=503, text="".join(lines))

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._watches.complete.is_set():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="not everything is listed yet\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _api_server_answers(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._client.request("GET", "/version")
        except ApiError as error:
            return error.status < 500
        except (aiohttp.ClientError, TimeoutError):
            return False
        return True

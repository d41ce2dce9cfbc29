"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kubetune.clients.kubernetes import ApiError, KubernetesClient
from kubetune.observe.watches import Watches
from kubetune.queue import WorkQueue

ANSWER_SECONDS = 0.5
"""A kubelet waits a second for /healthz."""


@dataclass(frozen=True)
class Bounds:
    """Seconds after which something doesn't go on by itself."""

    silence: float
    """Without a sign of a watch."""
    wait: float
    """Of an object for a worker."""


class Health:
    """Fails when a watch shows nothing for long, or an object waits too long to be looked at.

    A loop that is blocked doesn't answer at all. While the API server is away a new process could
    do no better, and what a tracking server or a workspace does tells nothing about the operator.
    """

    def __init__(
        self,
        watches: Watches,
        queue: WorkQueue,
        client: KubernetesClient,
        bounds: Bounds,
        ready: asyncio.Event,
    ) -> None:
        self._watches = watches
        self._queue = queue
        self._client = client
        self._bounds = bounds
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
        troubles = [*self._silent_watches(), *self._stuck_objects()]
        if not troubles or not await self._api_server_answers():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="".join(f"{trouble}\n" for trouble in troubles))

    def _silent_watches(self) -> Iterator[str]:
        silent = self._watches.silent(self._bounds.silence)
        for (kind, namespace), seconds in sorted(silent.items(), key=str):
            where = f"{kind} in {namespace}" if namespace else kind
            yield f"the watch of {where} has shown nothing for {seconds:.0f} s"

    def _stuck_objects(self) -> Iterator[str]:
        oldest = self._queue.oldest()
        if oldest and oldest[1] > self._bounds.wait:
            key, seconds = oldest
            name = f"{key.namespace}/{key.name}" if key.namespace else key.name
            yield f"{key.kind} {name} has waited for {seconds:.0f} s to be looked at"

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

"""Names that nobody answers for hold up the look-up of no other name."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from kubetune.clients.resolver import Resolver
from kubetune.tracking.base import TrackingError
from kubetune.tracking.rest import RestClient

SILENT = 60
"""More than any loop has threads for names."""


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names without an answer that are being looked up: the system asks for them forever."""
    names: list[str] = []
    released, system = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if not host.endswith(".example"):
            return system(host, *arguments, **options)
        names.append(host)
        released.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield names
    released.set()


async def test_names_without_an_answer_hold_up_no_other_place(looked_up: list[str]) -> None:
    server = web.AppRunner(web.Application())
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    silent = [RestClient(f"http://tracking-{at}.example", timeout_seconds=600) for at in range(60)]
    asked = [asyncio.create_task(client.text("GET", "/version")) for client in silent]
    port = server.addresses[0][1]
    there = RestClient(f"http://localhost:{port}", timeout_seconds=60)
    try:
        while len(looked_up) < SILENT:  # noqa: ASYNC110 - threads say nothing to the loop
            await asyncio.sleep(0.01)
        with pytest.raises(TrackingError, match="404"):
            await there.text("GET", "/version")
        assert not any(task.done() for task in asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        for client in [*silent, there]:
            await client.close()
        await server.cleanup()


async def test_addresses_need_no_name_server() -> None:
    resolver = Resolver()
    found = await resolver.resolve("localhost", 80, socket.AF_UNSPEC)
    await resolver.close()
    assert {item["host"] for item in found} <= {"127.0.0.1", "::1"}
    assert found[0]["port"] == 80

"""The operator's way to the API server: the real client, over a network that may fail."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import kopf
from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError, KubernetesClient

from tests.simulation.api_server import error
from tests.simulation.kinds import parse_path

if TYPE_CHECKING:
    from tests.simulation.world import World


TIMEOUT_SECONDS = 30.0
LATE_SECONDS = 35.0
MODES = ("refused", "unavailable", "timeout", "lost", "broken", "late", "throttled")


@dataclass
class Trouble:
    """One request that will fail."""

    mode: str
    """refused, throttled: nothing happens; unavailable: 500, nothing happens; timeout: no answer,
    nothing happens; lost: it happens, and no answer comes; broken: it happens, and a 500 comes;
    late: no answer, and it happens later."""
    skip: int
    """Writes that pass before."""


class ModelClient(KubernetesClient):
    """The real client down to its requests, which go to the model."""

    def __init__(self, world: World) -> None:
        super().__init__(kopf.ConnectionInfo(server="http://model"))
        self._world = world

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> JsonObject:
        """See kubetune.clients.kubernetes.KubernetesClient."""
        world = self._world
        world.ledger.requested(method, path)
        await asyncio.sleep(world.draw.choice((0.002, 0.01, 0.04)))
        if world.cut_off:
            raise aiohttp.ClientConnectionError("connection refused")
        if method == "GET":
            return _copy(world.server.request(method, path, body, query))
        await world.boundary("api")
        mode = self._trouble()
        if mode:
            world.tell("network", f"{mode}: {method} {path}")
        match mode:
            case "refused":
                raise aiohttp.ClientConnectionError("connection refused")
            case "throttled":
                raise error(429, "TooManyRequests", "too many requests")
            case "unavailable":
                raise error(500, "InternalError", "etcdserver: leader changed")
            case "timeout":
                await asyncio.sleep(TIMEOUT_SECONDS)
                raise TimeoutError
            case "late":
                world.later(LATE_SECONDS, lambda: self._apply_late(method, path, body))
                await asyncio.sleep(TIMEOUT_SECONDS)
                raise TimeoutError
            case _:
                pass
        if world.story is not None:
            world.tell("operator", f"{method} {_named(path)} {_told(method, body)}".rstrip())
        answer = world.server.request(method, path, body, query)
        await world.boundary("api")
        if mode == "lost":
            await asyncio.sleep(TIMEOUT_SECONDS)
            raise TimeoutError
        if mode == "broken":
            raise error(500, "InternalError", "etcdserver: request timed out")
        await asyncio.sleep(world.draw.choice((0.001, 0.01)))
        return _copy(answer)

    def _trouble(self) -> str:
        troubles = self._world.troubles
        if not troubles:
            return ""
        if troubles[0].skip:
            troubles[0].skip -= 1
            return ""
        return troubles.pop(0).mode

    def _apply_late(self, method: str, path: str, body: Any) -> None:
        self._world.tell("network", f"now arrives: {method} {path}")
        try:
            self._world.server.request(method, path, body)
        except ApiError as refused:
            self._world.tell("network", f"... and is refused: {refused}")


def _copy(body: JsonObject) -> JsonObject:
    """An answer of which the client may change what the cache leaves out."""
    copied = {**body, "metadata": dict(body["metadata"])}
    if "spec" in body:
        copied["spec"] = dict(body["spec"])
    if "items" in body:
        copied["items"] = [_copy(item) for item in body["items"]]
    return copied


def _named(path: str) -> str:
    found = parse_path(path)
    return " ".join(part for part in (found.kind.name, found.name, found.subresource) if part)


def _told(method: str, body: Any) -> str:
    if method == "POST":
        return str(body["metadata"]["name"])
    if method != "PATCH" or not isinstance(body, dict):
        return ""
    status: JsonObject = body.get("status") or {}
    if not status:
        return ", ".join(sorted(body.get("metadata") or body))
    conditions: Any = status.get("conditions") or ()
    ready = [
        f"{item['reason']}: {item['message']}" for item in conditions if item["type"] == "Ready"
    ]
    said = " ".join([str(status.get("phase") or ""), *ready]).strip()
    return said or f"({', '.join(sorted(status))})"

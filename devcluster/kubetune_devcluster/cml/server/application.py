"""The HTTP side: from a request to an operation and back, with the bad days in between."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aiohttp import BodyPartReader, web

from kubetune_devcluster.cml import client_package
from kubetune_devcluster.cml.server import experiments, jobs, offers, projects, registry, serving
from kubetune_devcluster.cml.server.calls import Answer, Call, Download, Part
from kubetune_devcluster.cml.server.contract import Operation, load
from kubetune_devcluster.cml.server.errors import (
    CODE_OF_STATUS,
    RefusalError,
    error_body,
    invalid,
    unauthenticated,
)
from kubetune_devcluster.cml.server.faults import Fault, Faults
from kubetune_devcluster.cml.server.workspace import Workspace

log = logging.getLogger(__name__)

_LARGEST_BODY = 1024**3
_HOLD_SECONDS = 0.02
_HTML = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>proxy</body></html>"
_NEW_FIELD = {"field_of_a_later_version": {"nested": [1, "two"]}}
# Also used for the operations that take a while, which would hold up all others.
_BLOCKING = (experiments, registry)


@dataclass(frozen=True)
class Request:
    """What was asked and answered. ``status`` is 0 when the connection was closed."""

    operation: str
    method: str
    path: str
    time: float
    status: int
    fault: bool


class Application:
    """The operations of a workspace behind HTTP."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._contract = load()
        self._handlers: dict[str, tuple[Callable[[Call], Answer], bool]] = {}
        for module in (projects, jobs, offers, serving, *_BLOCKING):
            self._add(module)
        missing = self._contract.names() - set(self._handlers)
        assert not missing, f"operations without code: {missing}"
        self.faults = Faults(self._contract.names())
        self.requests: list[Request] = []

    def web(self) -> web.Application:
        """The server for aiohttp."""
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_get("/healthz", self._health)
        application.router.add_get("/api/v2/python.tar.gz", self._package)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    def _add(self, module: ModuleType) -> None:
        for name in self._contract.names():
            if name in vars(module):
                self._handlers[name] = vars(module)[name], module in _BLOCKING

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _package(self, _request: web.Request) -> web.StreamResponse:
        return web.FileResponse(await asyncio.to_thread(client_package.archive))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fault: Fault | None = None
        response: web.StreamResponse | None
        name = ""
        started = self._workspace.clock.now()
        path = request.raw_path.partition("?")[0]
        try:
            operation, parameters = self._contract.match(request.method, path)
            name = operation.name
            fault = self.faults.take(name)
            if fault is not None and fault.hold is not None:
                # Nothing is left to read when the client has gone meanwhile.
                await request.read()
            if fault is None or fault.when == "after":
                response = await self._good(request, operation, parameters)
                if fault is not None:
                    response = await self._bad(fault, response)
            else:
                response = await self._bad(fault, None)
                if response is None and not fault.close:
                    response = await self._good(request, operation, parameters)
        except RefusalError as refusal:
            response = self._error(refusal.status, refusal.body(), {}, html=False)
        except ConnectionError:
            # The client has gone in the middle.
            response = None
        except Exception:
            log.exception("%s failed", name or path)
            response = self._error(500, error_body(13, "internal error"), {}, html=False)
        self.requests.append(
            Request(
                name,
                request.method,
                path,
                started,
                0 if response is None else response.status,
                fault is not None,
            )
        )
        if response is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return response

    async def _good(
        self, request: web.Request, operation: Operation, parameters: dict[str, str]
    ) -> web.StreamResponse:
        self._authenticate(request)
        query = dict(request.query)
        self._contract.check_query(operation, query)
        body: dict[str, Any] = {}
        parts: tuple[Part, ...] = ()
        if operation.upload:
            parts = await _parts(request)
        elif operation.body is not None:
            body = self._contract.check_body(operation, await _json(request))
        call = Call(self._workspace, operation, parameters, query, body, parts)
        handler, blocking = self._handlers[operation.name]
        answer = await asyncio.to_thread(handler, call) if blocking else self._run(handler, call)
        if isinstance(answer, Download):
            return web.Response(body=answer.content, content_type="application/octet-stream")
        if distort := self._workspace.behaviour.distort:
            return _as_it_is(distort(operation.name, answer))
        return web.json_response(_extended(answer) if self._extra else answer)

    def _run(self, handler: Callable[[Call], Answer], call: Call) -> Answer:
        with self._workspace.lock:
            return handler(call)

    @property
    def _extra(self) -> bool:
        return self._workspace.behaviour.extra_fields

    def _authenticate(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or key not in self._workspace.keys:
            raise unauthenticated()

    async def _bad(
        self, fault: Fault, good: web.StreamResponse | None
    ) -> web.StreamResponse | None:
        """The answer of a fault; None for a closed connection or, before, for a late good one."""
        if fault.hang is not None:
            await asyncio.sleep(fault.hang)
        # The event belongs to the test's thread.
        while fault.hold is not None and not fault.hold.is_set():  # noqa: ASYNC110
            await asyncio.sleep(_HOLD_SECONDS)
        if fault.close:
            return None
        if fault.status is None:
            return good
        message = fault.message or f"made to fail with {fault.status}"
        body = error_body(CODE_OF_STATUS.get(fault.status, 2), message)
        return self._error(fault.status, body, fault.headers, html=fault.html)

    def _error(
        self, status: int, body: dict[str, Any], headers: Mapping[str, str], *, html: bool
    ) -> web.Response:
        if html or self._workspace.behaviour.html_errors:
            page = _HTML.format(f"{status} {body['message']}")
            return web.Response(status=status, text=page, content_type="text/html", headers=headers)
        return web.json_response(body, status=status, headers=headers)


async def _json(request: web.Request) -> Any:
    written = await request.read()
    try:
        return json.loads(written or b"{}")
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}") from error


async def _parts(request: web.Request) -> tuple[Part, ...]:
    if not request.content_type.startswith("multipart/"):
        raise invalid(f"files come as multipart/form-data, not as {request.content_type}")
    found: list[Part] = []
    async for part in await request.multipart():
        if isinstance(part, BodyPartReader):
            content = bytes(await part.read())
            found.append(Part(part.name or "", part.filename or "", content))
    return tuple(found)


def _as_it_is(answer: Any) -> web.Response:
    if isinstance(answer, str):
        return web.Response(text=answer, content_type="application/json")
    return web.json_response(answer)


def _extended(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with fields of a later version in it and in its items."""
    items = {
        name: [_extended(one) if isinstance(one, dict) else one for one in value]
        for name, value in answer.items()
        if isinstance(value, list)
    }
    return {**answer, **items, **_NEW_FIELD}

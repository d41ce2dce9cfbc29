"""Serves container logs to the API server, over TLS and to nobody else."""

import ssl
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from . import logs
from .pods import Pods


def tls_context(certificate: Path, key: Path, client_authority: Path) -> ssl.SSLContext:
    """A context that asks for a client certificate of the given authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(client_authority))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def application(pods: Pods, client_name: str) -> web.Application:
    """The application; only a client certificate with the common name `client_name` gets in."""

    @web.middleware
    async def only_the_api_server(request: web.Request, handler: Handler) -> web.StreamResponse:
        # Nodes and users have certificates of the same authority, so the name must match too.
        certificate = request.get_extra_info("peercert") or {}
        subject = {key: value for part in certificate.get("subject", ()) for key, value in part}
        if subject.get("commonName") != client_name:
            raise web.HTTPForbidden(text="only the API server may read logs")
        return await handler(request)

    async def container_logs(request: web.Request) -> web.StreamResponse:
        return await _container_logs(request, pods)

    app = web.Application(middlewares=[only_the_api_server])
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", container_logs)
    for command in ("exec", "attach", "portForward"):
        app.router.add_route("*", f"/{command}/{{path:.*}}", _not_implemented)
    return app


async def _container_logs(request: web.Request, pods: Pods) -> web.StreamResponse:
    namespace, name, container = (
        request.match_info[part] for part in ("namespace", "pod", "container")
    )
    worker = pods.find(namespace, name)
    if worker is None or container not in worker.attempts:
        raise web.HTTPNotFound(text=f"pod {namespace}/{name} has no container {container!r} here")
    if request.query.get("previous") == "true":
        text = f"previous terminated container {container!r} not found: containers here run once"
        raise web.HTTPBadRequest(text=text)
    attempt = worker.attempts[container]
    if not attempt.known:
        waiting = worker.facts.states.get(container, {}).get("waiting") or {}
        detail = waiting.get("message") or waiting.get("reason") or "ContainerCreating"
        text = f"container {container!r} in pod {name!r} is waiting to start: {detail}"
        raise web.HTTPBadRequest(text=text)
    try:
        options = logs.LogOptions.parse(dict(request.query))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"log options: {error}") from None
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    async for text in logs.read(attempt.folder, options, lambda: attempt.running):
        await response.write(text)
    await response.write_eof()
    return response


async def _not_implemented(request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotImplemented(
        text="the process node has no exec, attach and port-forward: pods are local processes, "
        "so look at them with the machine's own tools"
    )

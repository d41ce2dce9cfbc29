"""Connections to a workspace for the ``cmlapi`` package, which knows no limits by itself.

The package reads whole answers into memory and waits as long as bytes trickle in. Here answers are
bounded in size and calls in time, no request is made twice, and no connection leads to where the
operator doesn't connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from kubetune.api.bounded import ANSWER
from kubetune.clients.answers import ACCEPT_ENCODING, body_in_thread
from kubetune.clients.cml_errors import InvalidError
from kubetune.clients.egress import Egress

_here = threading.local()


class Deadline:
    """The end of the time that a call has; its connection is shut when that comes.

    The loop keeps the time, as the thread of the call waits for the answer.
    """

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self.at = time.monotonic() + seconds
        self.over = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._tell(self._start, seconds)

    def ended(self) -> None:
        """The call is over."""
        self.watch(None)
        self._tell(self._stop)

    def _tell(self, call: Callable[..., None], *given: float) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before its calls
            self._loop.call_soon_threadsafe(call, *given)

    def _start(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self.reached)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def watch(self, connected: socket.socket | None) -> None:
        """The call goes over this socket now."""
        with self._lock:
            self._socket = connected
            if self.over:
                self._shut()

    def reached(self) -> None:
        """The time is over: who waits for bytes gets none."""
        with self._lock:
            self.over = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Below TLS, whose state belongs to the thread that reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


@contextlib.contextmanager
def within(seconds: float, loop: asyncio.AbstractEventLoop) -> Generator[Deadline]:
    """The calls of this thread end in time, however slowly an answer comes."""
    deadline = _here.deadline = Deadline(seconds, loop)
    try:
        yield deadline
    finally:
        _here.deadline = None
        deadline.ended()


def _deadline() -> Deadline | None:
    return getattr(_here, "deadline", None)


def pool_manager(egress: Egress, connections: int, ca_pem: str | None, *, tls: bool) -> Any:
    """Connections of urllib3's with the bounds of this module. Raises InvalidError."""
    from urllib3 import HTTPResponse, PoolManager, connectionpool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Connected(HTTPConnection):
        """One that leads to where it may, and is shut when a call's time is over."""

        def _new_conn(self) -> socket.socket:
            named = self._dns_host
            addresses = egress.resolved(named, self.port)
            # To the addresses that were looked at: the name may lead elsewhere next time.
            try:
                for address in addresses[:-1]:
                    with contextlib.suppress(Exception):
                        self._dns_host = address
                        return super()._new_conn()
                self._dns_host = addresses[-1]
                return super()._new_conn()
            finally:
                self._dns_host = named

        def request(self, *given: Any, **named: Any) -> None:
            if (deadline := _deadline()) is not None:
                deadline.watch(self.sock)
            super().request(*given, **named)
            if deadline is not None:
                deadline.watch(self.sock)

    class ConnectedTls(Connected, HTTPSConnection):
        pass

    class Pool(connectionpool.HTTPConnectionPool):
        ConnectionCls: Any = Connected

    class PoolTls(connectionpool.HTTPSConnectionPool):
        ConnectionCls: Any = ConnectedTls

    class Bounded(PoolManager):
        def urlopen(self, method: str, url: str, redirect: bool = True, **kw: Any) -> Any:
            whole = kw.pop("preload_content", True)
            headers = {**(kw.pop("headers", None) or {}), "Accept-Encoding": ACCEPT_ENCODING}
            response = super().urlopen(
                method, url, redirect, preload_content=False, headers=headers, **kw
            )
            return read(response, HTTPResponse) if whole else response

    options: dict[str, Any] = {"num_pools": 4, "maxsize": connections, "retries": no_retries()}
    if tls:
        # One context for all connections; with a file the package's would be made again for
        # each, and the operator has no place to write one.
        options["ssl_context"] = tls_context(ca_pem)
    manager: Any = Bounded(**options)
    manager.pool_classes_by_scheme = {"http": Pool, "https": PoolTls}
    return manager


def read(response: Any, made: Any) -> Any:
    """An answer like this one that has been read, within the bounds."""
    deadline = _deadline()
    try:
        data = body_in_thread(response, deadline.at if deadline else float("inf"), ANSWER)
    except BaseException:
        # With a rest unread the connection is of no more use.
        response.close()
        raise
    finally:
        response.release_conn()
    headers = response.headers.copy()
    headers.pop("Content-Encoding", None)
    return made(
        body=io.BytesIO(data),
        headers=headers,
        status=response.status,
        reason=response.reason,
        version=response.version,
        preload_content=True,
        request_method=None,
        request_url=response.geturl(),
    )


def tls_context(ca_pem: str | None) -> ssl.SSLContext:
    """The system's authorities, else those of certifi, and these. Raises InvalidError."""
    context = ssl.create_default_context()
    system = ssl.get_default_verify_paths()
    folder = Path(system.capath) if system.capath else None
    if not system.cafile and not (folder and any(folder.iterdir())):
        context.load_verify_locations(importlib.import_module("certifi").where())
    if ca_pem:
        try:
            context.load_verify_locations(cadata=ca_pem)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidError(f"the CA bundle holds no PEM certificates: {error}") from None
    return context


def no_retries() -> Any:
    """No second request of any kind: not after an error, and not to where a redirect points."""
    from urllib3 import Retry

    return Retry(total=0, redirect=0, raise_on_redirect=False)

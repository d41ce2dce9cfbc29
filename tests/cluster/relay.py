"""A TCP relay on loopback that can refuse or swallow what comes: an outage without a restart."""

import contextlib
import selectors
import socket
import threading
from typing import Literal
from urllib.parse import urlsplit

Mode = Literal["forward", "refuse", "hang"]


class Relay:
    """Stands before a server; ``mode`` counts for connections that are there, too."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._mode: Mode = "forward"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def mode(self) -> Mode:
        """What becomes of connections."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        self._cut()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        self._listener.close()
        self._cut()

    def _cut(self) -> None:
        connections, self._open = self._open, []
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._mode == "refuse":
                client.close()
                continue
            self._open.append(client)
            if self._mode == "forward":
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            self._open.append(server)
            selector = selectors.DefaultSelector()
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            with contextlib.suppress(OSError):
                while True:
                    for key, _ in selector.select():
                        data = key.fileobj.recv(65536)  # pyright: ignore[reportAttributeAccessIssue]
                        if not data:
                            return
                        key.data.sendall(data)

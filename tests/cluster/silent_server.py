"""A server on loopback that takes every request and answers none."""

import contextlib
import re
import socket
import threading

REQUEST = re.compile(rb"^[A-Z]+ /(\S*)")


class SilentServer:
    """Use as a context manager; the first part of a request's path tells whose it is."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._connections: list[socket.socket] = []
        self._asking: dict[socket.socket, str] = {}
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "SilentServer":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            # Wakes who accepts.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def asking(self) -> dict[socket.socket, str]:
        """Who waits for an answer now, by connection."""
        with self._lock:
            return dict(self._asking)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while received := connection.recv(65536):
                if found := REQUEST.match(received):
                    with self._lock:
                        self._asking[connection] = found[1].decode().split("/")[0]
        with self._lock:
            self._asking.pop(connection, None)

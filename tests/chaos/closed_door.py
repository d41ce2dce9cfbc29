"""A server that takes the place of one that is down, and notes who knocks."""

import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit


class ClosedDoor:
    """Closes every connection to an address without a word, once it has heard the request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self.asked: list[str] = []
        """Method and path of every request."""
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "ClosedDoor":
        self._socket = socket.create_server(self._address, reuse_port=False)
        self._thread = threading.Thread(target=self._listen, args=(self._socket,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._socket and self._thread:
            # To close it alone would not wake the thread.
            self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(10)
            self._socket.close()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    line = connection.recv(65536).split(b"\r\n", 1)[0].decode(errors="replace")
                except OSError:
                    line = ""
            self.asked.append(line.rpartition(" ")[0].partition("?")[0])

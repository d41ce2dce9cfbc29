"""A server on loopback that writes down what it is sent: what a thief has ready."""

from __future__ import annotations

import http.server
import threading
from typing import Any


class Listener(http.server.ThreadingHTTPServer):
    """A server that writes down what it is sent."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.heard.append(f"{self.path} {self.headers}")
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass

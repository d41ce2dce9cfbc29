"""The progress protocol that transformers' own callback speaks (Kubeflow Trainer's).

A trainer that finds the two variables below in its environment posts how far it is:
``{"trainerStatus": {"progressPercentage", "estimatedRemainingSeconds", "metrics": [{"name",
"value"}]}}``, numbers of metrics as text, with a bearer token that it reads from a file.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kubetune.api.bounded import NOTE, json_value

from kubetune_runner.finite import finite_number

ENV_URL = "KUBEFLOW_TRAINER_SERVER_URL"
ENV_TOKEN_FILE = "KUBEFLOW_TRAINER_SERVER_TOKEN"
MAX_BODY_BYTES = 65536
MAX_METRICS = 256
CLIENT_SECONDS = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Posted:
    """What one message tells."""

    percent: float | None = None
    remaining_seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict[str, float])


class ProgressServer:
    """Listens on the loopback; ``environment`` is what a trainer needs to find it."""

    def __init__(self, folder: Path, receive: Callable[[Posted], None]) -> None:
        token = secrets.token_urlsafe(32)
        file = folder / "progress-token"
        file.touch(mode=0o600)
        file.write_text(token, encoding="utf-8")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(token, receive))
        self._server.daemon_threads = True
        # Nothing but this pod can come here, so it needs no certificate.
        address = f"http://127.0.0.1:{self._server.server_port}/"
        self.environment = {ENV_URL: address, ENV_TOKEN_FILE: str(file)}
        threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def read(body: bytes) -> Posted:
    """A message. Raises ValueError when it is none."""
    document: Any = json_value(body, NOTE)
    status = document.get("trainerStatus") if isinstance(document, dict) else None
    if not isinstance(status, dict):
        raise ValueError("trainerStatus is missing")
    listed: Any = status.get("metrics") or []
    if not isinstance(listed, list) or len(listed) > MAX_METRICS:
        raise ValueError(f"metrics is not a list of at most {MAX_METRICS}")
    metrics: dict[str, float] = {}
    for item in listed:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise ValueError("a metric has no name")
        value = finite_number(item.get("value"))
        if value is not None:
            metrics[item["name"]] = value
    return Posted(
        finite_number(status.get("progressPercentage")),
        finite_number(status.get("estimatedRemainingSeconds")),
        metrics,
    )


def _handler(token: str, receive: Callable[[Posted], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS

        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                self._answer(401, {"error": "the token from the file is required"})
                return
            size = self.headers.get("Content-Length", "")
            if not size.isdigit() or int(size) > MAX_BODY_BYTES:
                self._answer(
                    413, {"error": f"a body of at most {MAX_BODY_BYTES} bytes is accepted"}
                )
                return
            try:
                posted = read(self.rfile.read(int(size)))
            except (ValueError, RecursionError) as error:
                self._answer(400, {"error": str(error)[:200]})
                return
            receive(posted)
            self._answer(200, {})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            log.debug(format, *args)

    return Handler

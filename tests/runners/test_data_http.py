"""Rows behind an address: limits, redirects, and errors that don't show secrets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import ROWS, dataset_document, jsonl
from kubetune.api.run.plan import DatasetPlan
from kubetune_runner.data import load
from kubetune_runner.data.sources.http import download
from kubetune_runner.errors import RunError

BODY = jsonl(ROWS).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: a status, a redirect, or rows."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.strip("/").isdigit():
            self.send_response(int(path.strip("/")))
            self.end_headers()
            return
        if path in ("/moved", "/loop"):
            self.send_response(302)
            self.send_header("Location", "/rows.jsonl" if path == "/moved" else "/loop")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY) + (100 if path == "/cut" else 0)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def plan(url: str) -> DatasetPlan:
    source = {"http": {"url": url, "format": "jsonl"}}
    return DatasetPlan.model_validate(dataset_document(source))


@pytest.mark.parametrize("path", ["/rows.jsonl", "/moved"])
def test_rows_are_downloaded(path: str, server: str) -> None:
    loaded = load(plan(f"{server}{path}"), None)
    assert (len(loaded.train), len(loaded.evaluation)) == (90, 10)


@pytest.mark.parametrize(
    ("path", "reason", "retryable", "says"),
    [
        ("/404", "HttpRefused", False, "source.http.url"),
        ("/403", "HttpRefused", False, "volume"),
        ("/loop", "HttpRefused", False, "redirects"),
        ("/429", "HttpUnreachable", True, "429"),
        ("/503", "HttpUnreachable", True, "503"),
        ("/cut", "HttpUnreachable", True, ""),
    ],
)
def test_what_the_server_refuses(
    path: str, reason: str, retryable: bool, says: str, server: str
) -> None:
    with pytest.raises(RunError) as refused:
        load(plan(f"{server}{path}?signature=s3cr3t"), None)
    error = refused.value
    assert (error.reason, error.retryable) == (reason, retryable)
    assert says in error.message
    assert "s3cr3t" not in error.message


def test_unreachable_servers_are_retryable() -> None:
    with pytest.raises(RunError) as refused:
        load(plan("http://127.0.0.1:9/rows?signature=s3cr3t"), None)
    assert (refused.value.reason, refused.value.retryable) == ("HttpUnreachable", True)
    assert "s3cr3t" not in refused.value.message


def test_size_limit(server: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"more than 1,000 bytes") as refused:
        download(f"{server}/rows.jsonl", tmp_path / "rows", limit_bytes=1000)
    assert refused.value.reason == "HttpTooLarge"

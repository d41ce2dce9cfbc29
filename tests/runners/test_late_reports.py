"""A report whose connection broke is handled after a newer one: the newer one counts."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune_runner.mlflow.tracking import Tracker
from mlflow.tracking import MlflowClient

from tests.runners.conftest import PlanFactory

Matches = Callable[[str, bytes], bool]


class Delaying:
    """Stands before MLflow: hangs up on one request, and delivers it after a later one."""

    def __init__(self, target: str, held: Matches, later: Matches) -> None:
        self.taken, self.delivered = threading.Event(), threading.Event()
        self._target, self._is_held, self._is_later = target, held, later
        self._held: tuple[str, str, bytes] | None = None
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                relay.handle(self)

            do_POST = do_PATCH = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = (handler.command, handler.path, body)
        if self._held is None and self._is_held(handler.path, body):
            self._held = request
            self.taken.set()
            handler.close_connection = True
            return
        code, answer = self._forward(*request)
        if self._held and not self.delivered.is_set() and self._is_later(handler.path, body):
            assert self._forward(*self._held)[0] == 200
            self.delivered.set()
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def _forward(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        request = urllib.request.Request(
            self._target + path,
            data=body or None,
            method=method,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture(name="delaying")
def make_delaying(mlflow_server: str) -> Iterator[Callable[[Matches, Matches], Delaying]]:
    relays: list[Delaying] = []

    def make(held: Matches, later: Matches) -> Delaying:
        relays.append(Delaying(mlflow_server, held, later))
        return relays[-1]

    yield make
    for relay in relays:
        relay.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubetune_runner.mlflow.tracking.FLUSH_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_late_phase_does_not_stay(
    make_plan: PlanFactory,
    mlflow_server: str,
    delaying: Callable[[Matches, Matches], Delaying],
) -> None:
    relay = delaying(
        lambda path, body: path.endswith("log-batch") and b'"training"' in body,
        lambda path, body: path.endswith("log-batch") and b'"evaluating"' in body,
    )
    tracker = Tracker(make_plan(tracking={"uri": relay.url}))
    tracker.phase("training")
    tracker.start()
    run_id = tracker.wait_run(60)
    assert run_id is not None
    # The run is there, and the report that follows finds no answer.
    assert relay.taken.wait(60)
    tracker.phase("evaluating")
    assert relay.delivered.wait(60)
    assert tracker.close("FINISHED", 60)
    run = MlflowClient(mlflow_server).get_run(run_id)
    assert run.data.tags[names.TAG_PHASE] == "evaluating"
    assert run.info.status == "FINISHED"


def test_a_late_start_does_not_open_a_run_that_has_ended(
    make_plan: PlanFactory,
    mlflow_server: str,
    delaying: Callable[[Matches, Matches], Delaying],
) -> None:
    """The second attempt opens the run again."""
    plan = make_plan(tracking={"uri": mlflow_server})
    first = Tracker(plan)
    first.start()
    run_id = first.wait_run(60)
    assert run_id is not None
    assert first.close("KILLED", 60)
    relay = delaying(
        lambda path, body: path.endswith("runs/update") and b"RUNNING" in body,
        lambda path, body: path.endswith("runs/update") and b"FINISHED" in body,
    )
    second = Tracker(make_plan(tracking={"uri": relay.url}))
    second.start()
    assert second.wait_run(60)
    assert second.close("FINISHED", 60)
    assert relay.delivered.is_set()
    assert second.run_id == run_id
    assert MlflowClient(mlflow_server).get_run(run_id).info.status == "FINISHED"

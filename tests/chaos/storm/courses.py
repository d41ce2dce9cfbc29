"""What is to happen to a job: what its runs do, and what its owner does, until it is over."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.conditions import TERMINAL_PHASES
from kubetune.api.run.outcome import Outcome
from mlflow.exceptions import MlflowException

from tests.chaos.storm.record import Record
from tests.cluster.api_client import ApiClient
from tests.cluster.namespace import MERGE_PATCH, Namespace

ALIAS = "champion"
SECONDS = 5.0
"""For one request of ours."""
CRASHED = Outcome(status="failed", reason="DiskFull", message="no space left", retryable=True)


class AwayError(Exception):
    """What was asked can't answer now; the same is asked again."""


AWAY = (AwayError, MlflowException, OSError, http.client.HTTPException)


class Life(StrEnum):
    """What happens to a job."""

    PLAIN = "plain"
    FAILS = "fails"
    EVICTED = "evicted"
    PAUSED = "paused"
    DELETED = "deleted"


ATTEMPTS: dict[Life, list[str]] = {
    Life.PLAIN: ["Succeeded"],
    Life.FAILS: ["Failed", "Succeeded"],
    Life.EVICTED: ["Preempted", "Succeeded"],
    Life.PAUSED: ["Stopped", "Succeeded"],
}
"""What the status is to say of the attempts in the end."""


class Requests:
    """Requests to the API server that give up soon."""

    def __init__(self, space: Namespace) -> None:
        self._client = ApiClient(space.cluster.kubeconfig, space.files.parent, timeout=SECONDS)

    def send(self, method: str, path: str, body: object = None, fine: tuple[int, ...] = ()) -> None:
        """One request. Raises AwayError when it may have worked, or may work later."""
        kind = MERGE_PATCH if method == "PATCH" else "application/json"
        try:
            status, answer = self._client.request(method, path, body, kind)
        except (OSError, http.client.HTTPException) as error:
            self._client.close()
            raise AwayError(str(error)) from None
        if status >= 300 and status not in fine:
            # 403 and 404 are what a server says whose rights and kinds aren't loaded yet.
            assert status in (401, 403, 404, 409, 429) or status >= 500, answer
            raise AwayError(str(answer.get("message")))


class Place(Protocol):
    """Where runs are: what they do is told there."""

    name: str
    space: Namespace
    record: Record
    requests: Requests

    def fail(self, course: Course, attempt: int) -> None:
        """Have an attempt fail."""
        ...

    def succeed(self, course: Course, first: int) -> None:
        """Have every attempt from this one on succeed."""
        ...

    def runs(self, course: Course) -> bool:
        """Whether its first attempt is under way."""
        ...

    def evict(self, course: Course) -> None:
        """Take the node away from its first attempt. Raises AwayError."""
        ...

    def log(self, course: Course) -> None:
        """Leave in MLflow what a training leaves. Raises what MLflow's client does."""
        ...


@dataclass
class Course:
    """One job, from its creation to its end."""

    place: Place
    name: str
    life: Life
    registered: str
    """The name under which its version is registered."""
    shared: bool = False
    """Others use this name, too."""
    run_id: str = ""
    model_id: str = ""
    failing: set[int] = field(default_factory=set[int])
    succeeds_from: int = 0
    evicted: bool = False
    stage: str = "waits"
    over: bool = False
    began: float = 0.0
    _steps: Generator[None] | None = None

    def step(self) -> None:
        """Go on as far as it goes now."""
        if self._steps is None:
            self.began = time.monotonic()
            self._steps = self._follow()
        if next(self._steps, self) is self:
            self.over = True

    @property
    def run_key(self) -> str:
        """Its run key, once it has one."""
        body = self.place.record.jobs.get(self.name) or {}
        return (body.get("status") or {}).get("runKey", "")

    @property
    def outcome(self) -> Outcome:
        """What a successful run leaves."""
        summary: dict[str, Any] = {"runId": self.run_id, "modelId": self.model_id}
        return Outcome(status="succeeded", reason="Trained", summary=summary)

    def _follow(self) -> Generator[None]:
        yield from self._do("create", self._create)
        yield from self._until("key", lambda: bool(self.run_key))
        if self.life == Life.DELETED:
            yield from self._until("running", self._is_running)
            while self.name in self.place.record.jobs:
                yield from self._do("delete", self._delete)
                yield
            return
        yield from self._do("log", lambda: self.place.log(self))
        if self.life == Life.FAILS:
            self.place.fail(self, 1)
        if self.life == Life.EVICTED:
            yield from self._until("running", self._is_running)
            while not self.evicted:
                yield from self._do("evict", lambda: self.place.evict(self))
                yield
        if self.life == Life.PAUSED:
            yield from self._until("running", self._is_running)
            yield from self._do("suspend", lambda: self._suspend(True))
            yield from self._until("suspended", lambda: self._phase() == "Suspended")
        self.place.succeed(self, len(ATTEMPTS[self.life]))
        if self.life == Life.PAUSED:
            yield from self._do("resume", lambda: self._suspend(False))
        yield from self._until("over", lambda: self._phase() in TERMINAL_PHASES)

    def _do(self, stage: str, action: Callable[[], None]) -> Generator[None]:
        self.stage = stage
        while True:
            try:
                action()
            except AWAY:
                yield
            else:
                return

    def _until(self, stage: str, holds: Callable[[], bool]) -> Generator[None]:
        self.stage = stage
        while not holds():
            yield

    def _phase(self) -> str:
        return self.place.record.phase(self.name)

    def _is_running(self) -> bool:
        return self._phase() == "Running" and self.place.runs(self)

    def _create(self) -> None:
        spec: JsonObject = {
            "modelRef": {"name": "base"},
            "datasetRef": {"name": "rows"},
            "promptRef": {"name": "ask"},
            "hyperparameters": {"maxSteps": 1},
            "backoffLimit": 5,
            "reuse": "Never",
            "output": {"registry": {"name": self.registered, "alias": ALIAS}},
        }
        space = self.place.space
        body = {
            "apiVersion": API_VERSION,
            "kind": "FineTuneJob",
            "metadata": {"name": self.name},
            "spec": spec,
        }
        self.place.requests.send("POST", space.path("FineTuneJob"), body, fine=(409,))

    def _suspend(self, wanted: bool) -> None:
        path = self.place.space.path("FineTuneJob", self.name)
        self.place.requests.send("PATCH", path, {"spec": {"suspend": wanted}})

    def _delete(self) -> None:
        # Not found may mean that the server doesn't know the kind yet: the watch tells.
        path = self.place.space.path("FineTuneJob", self.name)
        self.place.requests.send("DELETE", path, fine=(404,))


def told(body: JsonObject | None) -> str:
    """A status in few words, for who looks for what went wrong."""
    status = (body or {}).get("status") or {}
    ready = [each for each in status.get("conditions") or () if each["type"] == "Ready"]
    return json.dumps(
        {
            "phase": status.get("phase"),
            "attempts": status.get("attempts"),
            "Ready": [each["reason"] + ": " + each["message"] for each in ready],
        }
    )

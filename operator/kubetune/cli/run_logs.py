"""Finds the log of a run: in its pod, else in MLflow, else the end of it in the status."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import click

from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.conditions import AT_REST, AttemptResult, CandidatePhase, InspectionResult
from kubetune.api.kinds.status_types import (
    AnyStatusDict,
    AttemptDict,
    CandidateStatusDict,
    status_of,
)
from kubetune.api.kinds.table import KINDS, Kind
from kubetune.api.run.plan import log_artifact
from kubetune.cli.connection import NotThereError, artifact

CONTAINER = "runner"
LOOK_SECONDS = 1.0
_INDEX = "batch.kubernetes.io/job-completion-index"
MAX_DIGITS = 6
_WITH_RUNS = ("FineTuneJob", "Evaluation", "Dataset", "Model", "PromptTemplate")
Part = AnyStatusDict | CandidateStatusDict


@dataclass(frozen=True)
class Wanted:
    """Which log."""

    kind: Kind
    namespace: str
    name: str
    follow: bool = False
    tail: int | None = None
    attempt: int | None = None
    previous: bool = False
    worker: int = 0
    candidate: str | None = None

    @property
    def subject(self) -> str:
        """The object, in words."""
        return f"{self.kind.kind} {self.namespace}/{self.name}"


def kind_of(text: str) -> Kind:
    """The kind by any of its names. Raises click.BadParameter."""
    for kind in KINDS:
        if kind.kind in _WITH_RUNS and text.lower() in (
            kind.singular,
            kind.plural,
            *kind.short_names,
        ):
            return kind
    known = ", ".join(
        "|".join((kind.singular, *kind.short_names)) for kind in KINDS if kind.kind in _WITH_RUNS
    )
    raise click.BadParameter(f"kind {text!r} has no runs; use one of {known}", param_hint="KIND")


async def write_log(wanted: Wanted) -> None:
    """Write the log to standard output. Raises NotThereError."""
    async with _cluster() as cluster:
        said = ""
        while True:
            body = await cluster.get(wanted)
            part = _part_of(wanted, body)
            pods = await cluster.pods(wanted, body, part)
            number = _attempt_of(wanted, part, pods)
            pod = _pod_of(wanted, pods, number)
            if pod is not None and await _write_pod(cluster, wanted, pod):
                return
            if not wanted.follow or _is_over(body, part, number):
                await _write_what_is_left(wanted, body, part, number, pod)
                return
            if (waiting := _waiting(body)) != said:
                said = waiting
                click.echo(f"{wanted.subject}: {said}", err=True)
            await asyncio.sleep(LOOK_SECONDS)


class _Cluster:
    """What is asked of the API server."""

    def __init__(self, connection: Any, session: aiohttp.ClientSession) -> None:
        self._server: str = connection.server.rstrip("/")
        self._session = session

    async def get(self, wanted: Wanted) -> JsonObject:
        """The object."""
        from kubetune.clients.kubernetes import KubernetesClient

        path = KubernetesClient.path(wanted.kind.kind, wanted.namespace, wanted.name)
        answer = await self._json(path, {})
        if answer.get("kind") == "Status":
            known = f"kubectl get {wanted.kind.plural} -n {wanted.namespace}"
            raise NotThereError(f"{wanted.subject}: {answer.get('message')}; see: {known}")
        return answer

    async def pods(
        self, wanted: Wanted, body: JsonObject, part: Part
    ) -> dict[int, list[JsonObject]]:
        """The pods of the object's runs by attempt."""
        labels = {
            names.OWNER_KIND: wanted.kind.kind,
            names.OWNER_NAME: names.label_value(wanted.name),
        }
        if "name" in part:
            # A candidate's.
            attempts = _attempts(part)
            run_key = names.run_key_in(attempts[-1]["job"]) if attempts else ""
            if not run_key:
                return {}
            labels[names.RUN_KEY] = run_key
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        path = f"/api/v1/namespaces/{wanted.namespace}/pods"
        answer = await self._json(path, {"labelSelector": selector})
        if answer.get("kind") == "Status":
            raise NotThereError(f"the pods of {wanted.subject}: {answer.get('message')}")
        found: dict[int, list[JsonObject]] = {}
        for pod in answer["items"]:
            metadata = pod["metadata"]
            if (metadata.get("annotations") or {}).get(names.OWNER_NAME) == wanted.name:
                number = _number(metadata["labels"].get(names.ATTEMPT, "1"))
                found.setdefault(number, []).append(pod)
        return found

    async def log(self, pod: JsonObject, follow: bool, tail: int | None) -> AsyncGenerator[bytes]:
        """The pod's log in pieces. Raises _NoLogError."""
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        query = {"container": CONTAINER}
        if follow:
            query["follow"] = "true"
        if tail is not None:
            query["tailLines"] = str(tail)
        timeout = aiohttp.ClientTimeout(total=None, connect=10)
        async with self._session.get(self._server + path, params=query, timeout=timeout) as answer:
            if answer.status >= 400:
                said: Any = await answer.json(content_type=None)
                raise _NoLogError(str(said.get("message", "")))
            async for piece in answer.content.iter_any():
                yield piece

    async def _json(self, path: str, query: dict[str, str]) -> JsonObject:
        async with self._session.get(self._server + path, params=query) as answer:
            return await answer.json(content_type=None)


class _NoLogError(Exception):
    """The pod has no log, or none yet."""


@asynccontextmanager
async def _cluster() -> AsyncGenerator[_Cluster]:
    import kopf

    from kubetune.clients.kubernetes import find_connection, open_session

    try:
        connection = find_connection()
    except kopf.LoginError:
        raise NotThereError("no cluster: set KUBECONFIG, or give --home") from None
    try:
        async with open_session(connection) as session:
            yield _Cluster(connection, session)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotThereError(f"the cluster can't be reached: {error or 'no answer'}") from None


def _part_of(wanted: Wanted, body: JsonObject) -> Part:
    """The part of the status that is about the run: of an Evaluation one candidate's."""
    status: AnyStatusDict = status_of(body)
    if wanted.kind.kind != "Evaluation":
        return status
    candidates = status.get("candidates") or []
    known = [item["name"] for item in candidates] or [
        item["name"] for item in body["spec"]["candidates"]
    ]
    name = wanted.candidate or (known[0] if len(known) == 1 else None)
    if name is None or name not in known:
        problem = f"no candidate {name}" if name else f"{len(known)} candidates"
        raise NotThereError(f"{wanted.subject} has {problem}; give --candidate {'|'.join(known)}")
    none_yet: CandidateStatusDict = {"name": name, "phase": CandidatePhase.PENDING}
    return next((item for item in candidates if item["name"] == name), none_yet)


def _attempts(part: Part) -> list[AttemptDict]:
    """The attempts that the status lists, oldest first."""
    if "attempt" in part:
        return [part["attempt"]]
    return part.get("attempts") or []


def _attempt_of(wanted: Wanted, part: Part, pods: dict[int, list[JsonObject]]) -> int:
    """The attempt that is asked for; 0 when there is none yet. Raises NotThereError."""
    numbers = {*pods, *(item["number"] for item in _attempts(part))}
    newest = max(numbers, default=0)
    if wanted.attempt is not None:
        if wanted.attempt > newest and not wanted.follow:
            raise NotThereError(
                f"{wanted.subject} has no attempt {wanted.attempt}: the newest is {newest}"
                if newest
                else f"{wanted.subject} has no attempt yet"
            )
        return wanted.attempt
    if not wanted.previous:
        return newest
    if newest < 2:
        raise NotThereError(f"{wanted.subject} has no attempt before its newest, {newest}")
    return newest - 1


def _number(text: str) -> int:
    """A number in a label or annotation, which anybody may have written; 0 where it is none."""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else 0


def _pod_of(wanted: Wanted, pods: dict[int, list[JsonObject]], number: int) -> JsonObject | None:
    """The worker's pod of an attempt: one that lives, else the newest."""

    def worker(pod: JsonObject) -> int:
        return _number((pod["metadata"].get("annotations") or {}).get(_INDEX, "0"))

    def rank(pod: JsonObject) -> tuple[bool, str]:
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        return not ended, pod["metadata"]["creationTimestamp"]

    own = [pod for pod in pods.get(number, ()) if worker(pod) == wanted.worker]
    return max(own, key=rank, default=None)


async def _write_pod(cluster: _Cluster, wanted: Wanted, pod: JsonObject) -> bool:
    """Write the pod's log; False when there is none, or none yet."""
    try:
        async for piece in cluster.log(pod, wanted.follow, wanted.tail):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except _NoLogError:
        return False
    return True


def _is_over(body: JsonObject, part: Part, number: int) -> bool:
    """Whether nothing more will come of the attempt."""
    status: AnyStatusDict = status_of(body)
    if part.get("phase") in AT_REST or status.get("phase") in AT_REST:
        return True
    ended = {item["number"]: item["result"] != AttemptResult.RUNNING for item in _attempts(part)}
    if number in ended:
        return ended[number]
    return (part.get("inspection") or {}).get("result") is not None


def _waiting(body: JsonObject) -> str:
    status: AnyStatusDict = status_of(body)
    conditions = status.get("conditions") or ()
    ready = next((item for item in conditions if item["type"] == "Ready"), None)
    return str(ready["message"]) if ready else "the operator has not seen it yet"


async def _write_what_is_left(
    wanted: Wanted, body: JsonObject, part: Part, number: int, pod: JsonObject | None
) -> None:
    """Write what MLflow has, else what the status has. Raises NotThereError."""
    if not number and (part.get("reused") or (part.get("result") or {}).get("reused")):
        raise NotThereError(
            f"{wanted.subject} had no run: the result was taken over, as it was made or measured"
            f" by another run with the same inputs, {(part.get('mlflow') or {}).get('url', '')}"
        )
    if not number and "inspection" not in part:
        raise NotThereError(f"{wanted.subject} has no run yet: {_waiting(body)}")
    place = log_artifact(number, wanted.worker)
    problem = ""
    if run := part.get("mlflow"):
        try:
            _write(await artifact(run, place), wanted.tail)
            return
        except NotThereError as error:
            problem = f"MLflow doesn't hand out {place} of run {run.get('runId')}: {error}"
            if page := (part.get("external") or {}).get("url"):
                problem += f"; the run's console in CML is at {page}"
    else:
        problem = _why_nothing(wanted, body, part, pod)
    kept = next((item.get("log") for item in _attempts(part) if item["number"] == number), None)
    kept = kept or (part.get("inspection") or {}).get("log")
    if not kept:
        raise NotThereError(f"{wanted.subject}: {problem}")
    click.echo(f"{wanted.subject}: {problem}. The end of the log, from the status:", err=True)
    _write(kept, wanted.tail)


def _why_nothing(wanted: Wanted, body: JsonObject, part: Part, pod: JsonObject | None) -> str:
    if pod is not None:
        return f"pod {pod['metadata']['name']} has no log yet: {_waiting(body)}"
    if page := (part.get("external") or {}).get("url"):
        return f"the run is on CML, whose API hands out no logs: look at {page}"
    if (part.get("inspection") or {}).get("result") == InspectionResult.FOUND:
        return "the log of an inspection that went well isn't kept"
    return "its pod is gone, and it has no MLflow run"


def _write(text: str, tail: int | None) -> None:
    lines = text.rstrip("\n").split("\n")
    if tail is not None:
        lines = lines[len(lines) - min(tail, len(lines)) :]
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

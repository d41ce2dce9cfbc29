"""What a workspace answers may be anything: it is waited out, and nothing is made twice for it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.compute_target.status import CmlWorkspaceStatus
from kubetune.api.training.settings import Resources
from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.egress import OPEN
from kubetune.clients.permission import always
from kubetune.targets.cml.backend import CmlBackend
from kubetune.targets.errors import BackendError
from kubetune.targets.values import Owner, RunAddress, RunRequest, RunState, TargetProbe
from kubetune.tracking.base import TrackingError
from kubetune.tracking.cml import CmlTracker
from kubetune_devcluster.cml.server import Simulator

from tests.believing import anybodys
from tests.cml.tracked import INSTALL, Experiment

pytestmark = pytest.mark.usefixtures("cmlapi_path")

OWNER = Owner("kubetune.io/v1alpha1", "FineTuneJob", "team", "tickets", "uid-1")
RUN_KEY = "abc123def4567890"
HUGE = "x" * 300_000
NAMES = {"name", "script", "environment", "status", "artifact_uri", "next_page_token", "path"} | {
    "kernel", "edition", "editor", "image_identifier", "full_version", "key", "value",
}  # fmt: skip
"""Texts that decide what is found; the others may be of any size."""
ENDED = ("succeeded", "failed", "preempted", "stopped")

Distort = Callable[[str, dict[str, Any]], Any]


def each(change: Callable[[str, Any], Any]) -> Distort:
    """Changes every field, from the innermost to the outermost."""

    def walk(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            value = {key: walk(key, item) for key, item in value.items()}
        elif isinstance(value, list):
            value = [walk("", item) for item in value]
        return change(name, value)

    return lambda _, answer: {key: walk(key, item) for key, item in answer.items()}


def is_id(name: str) -> bool:
    return name == "id" or name.endswith("_id")


def is_time(name: str) -> bool:
    return name.endswith(("_at", "_time")) or name == "timestamp"


def nulls_in_lists(name: str, value: Any) -> Any:
    return [None, *value, None] if isinstance(value, list) else value


def nulls_but_ids(name: str, value: Any) -> Any:
    kept = is_id(name) or isinstance(value, dict | list) or name == "name"
    return value if kept else None


def no_ids(name: str, value: Any) -> Any:
    return None if is_id(name) else value


def huge(name: str, value: Any) -> Any:
    free = isinstance(value, str) and not is_id(name) and not is_time(name) and name not in NAMES
    return value + HUGE if free else value


def negative(name: str, value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return -abs(value) - 1
    digits = isinstance(value, str) and value.isdigit() and not is_id(name)
    return f"-{value}" if digits else value


def infinite(name: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float("inf") if number else value


def wrong_kinds(name: str, value: Any) -> Any:
    match value:
        case bool():
            return "maybe"
        case int() | float():
            return {"number": value}
        case str():
            return [value]
        case list():
            return {"items": value}
        case _:
            return "text"


def strange_times(name: str, value: Any) -> Any:
    return "9" * 400 if is_time(name) and value else value


def first_times(name: str, value: Any) -> Any:
    return "0001-01-01T00:00:00Z" if is_time(name) and value else value


def texts_in_lists(name: str, value: Any) -> Any:
    return ["text", *value] if isinstance(value, list) else value


def strangers(name: str, value: Any) -> Any:
    """What is somebody else's comes first in every list."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return value
    other = {key: "zzzz-zzzz-zzzz-zzzz" if is_id(key) else item for key, item in value[0].items()}
    return [other | {"environment": "{}", "status": "ENGINE_FAILED", "name": "other"}, *value]


DISTORTIONS: dict[str, Distort] = {
    **{
        change.__name__: each(change)
        for change in (
            nulls_in_lists, nulls_but_ids, no_ids, huge, negative, infinite, wrong_kinds,
            strange_times, first_times, texts_in_lists, strangers,
        )
    },
    "log_in_page": lambda *_: "<!doctype html><html><title>Log in</title></html>",
    "a_list": lambda *_: [],
    "null": lambda *_: "null",
    "nothing": lambda *_: {},
    "no_utf8_number": lambda *_: '{"jobs": 1e999, "projects": -1e999}',
    "a_deep_hole": lambda *_: '{"jobs":' + "[" * 100_000 + "]" * 100_000 + "}",
    "cut_off": lambda *_: '{"jobs": [{"id": "a',
    "no_end": lambda _, answer: answer | {"next_page_token": "again"},
}  # fmt: skip


@dataclass
class Site:
    """An operator's parts that talk to the simulator, without a cluster."""

    backend: CmlBackend
    target: ComputeTargetSpec
    address: RunAddress

    def request(self) -> RunRequest:
        """The first attempt of a training."""
        return RunRequest(
            owner=OWNER,
            run_key=RUN_KEY,
            attempt=1,
            purpose="train",
            plan={"version": 1, "kind": "train", "run": {"installId": INSTALL}},
            target=self.target,
            resources=Resources(cpu="1", memory="1Gi", gpu=1),
        )

    async def probe(self) -> TargetProbe:
        """What the target's status is made of."""
        found = await self.backend.probe(self.target, OWNER.namespace)
        assert found is not None
        return found

    async def looks(self) -> list[RunState]:
        """All attempts, after having asked for the first."""
        await self.backend.ensure(self.request())
        return await self.backend.observe(self.address)

    async def until(self, wanted: Callable[[list[RunState]], bool]) -> list[RunState]:
        """Ask as the operator does until the attempts are as wanted."""
        deadline = time.monotonic() + 30
        found: list[RunState] | BackendError = []
        while time.monotonic() < deadline:
            try:
                found = await self.looks()
                if wanted(found):
                    return found
            except BackendError as error:
                found = error
            await asyncio.sleep(0.05)
        raise AssertionError(f"the attempts are {found!r}")


@asynccontextmanager
async def site(
    simulator: Simulator, may_write: Callable[[], bool] = always
) -> AsyncGenerator[Site]:
    simulator.write("entry.py", "")
    target = ComputeTargetSpec.model_validate(
        {
            "cml": {
                "url": simulator.url,
                "project": simulator.project.name,
                "apiKeySecretRef": {"name": "key"},
                "runtime": {"kernel": "Python 3.11"},
                "runtimeAddons": ["hadoop-cli-7.2.18-hf4"],
                "runner": {"script": "entry.py"},
                "poll": {"minSeconds": 1, "maxSeconds": 1},
            },
            "tracking": {"uri": "http://mlflow.example.com"},
        }
    )

    async def access(*_: Any) -> tuple[str, str | None]:
        return simulator.api_key, None

    async def config_map(*_: Any) -> str:
        return ""

    clients = CmlClients(egress=OPEN, may_write=may_write)
    backend = CmlBackend(clients, access, config_map, lambda _: None, settle_seconds=1)
    try:
        yield Site(backend, target, RunAddress(OWNER, RUN_KEY, target))
    finally:
        await backend.close()
        await clients.close()


def running(states: list[RunState]) -> bool:
    return bool(states) and states[-1].phase == "running"


@pytest.mark.parametrize("name", DISTORTIONS)
async def test_a_run_is_made_once_whatever_is_answered(simulator: Simulator, name: str) -> None:
    async with site(simulator) as at:
        simulator.behaviour.distort = DISTORTIONS[name]
        for _ in range(3):
            with suppress(BackendError):
                await at.looks()
        simulator.behaviour.distort = None
        await at.until(running)
        assert len(simulator.all_jobs()) == 1
        assert simulator.most_active_of(RUN_KEY) == 1
        (job,) = simulator.jobs()
        assert len(simulator.runs(job.id)) == 1


@pytest.mark.parametrize("name", DISTORTIONS)
async def test_a_run_goes_on_whatever_is_answered(simulator: Simulator, name: str) -> None:
    async with site(simulator) as at:
        await at.until(running)
        (job,) = simulator.jobs()
        asked = simulator.count("list_job_runs")
        simulator.behaviour.distort = DISTORTIONS[name]
        for _ in range(3):
            with suppress(BackendError):
                for state in await at.looks():
                    assert state.phase not in ENDED, state
                    assert len(state.message) <= 1024
        # The task that follows runs sees it too.
        deadline = time.monotonic() + 10
        while simulator.count("list_projects") + simulator.count("list_job_runs") <= asked:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        simulator.behaviour.distort = None
        await at.until(running)
        simulator.stop_run_by_hand(simulator.runs(job.id)[0].id)
        states = await at.until(lambda states: states[-1].phase == "stopped")
        assert len(states) == len(simulator.all_jobs()) == 1


@pytest.mark.parametrize("name", DISTORTIONS)
async def test_a_target_tells_what_it_found_in_few_words(simulator: Simulator, name: str) -> None:
    async with site(simulator) as at:
        simulator.behaviour.distort = DISTORTIONS[name]
        found = await at.probe()
        assert found.reason is None or found.message
        assert len(found.message) <= 1024
        shown = found.status["workspace"]
        assert CmlWorkspaceStatus.model_validate(shown)
        assert len(str(shown)) < 20_000
        simulator.behaviour.distort = None
        deadline = time.monotonic() + 10
        while (found := await at.probe()).reason is not None:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("name", DISTORTIONS)
async def test_a_version_is_registered_once_whatever_is_answered(
    simulator: Simulator, experiment: Experiment, name: str
) -> None:
    run_id = await experiment.run("key-1")
    await experiment.log(run_id, ("loss", 1.5, 3))
    tracker = CmlTracker(experiment.client, simulator.project.name, settle_seconds=0.2)
    registration = experiment.registration(run_id)
    simulator.behaviour.distort = DISTORTIONS[name]
    calls: list[Callable[[], Any]] = [
        lambda: tracker.running(INSTALL, [experiment.name]),
        lambda: tracker.find_run("key-1", experiment.name),
        lambda: tracker.find_identical("tickets", "digest", anybodys),
        lambda: tracker.find_evaluation("digest", experiment.name, anybodys),
        lambda: tracker.register(registration),
    ]
    for call in calls:
        with suppress(TrackingError):
            await call()
    simulator.behaviour.distort = None
    deadline = time.monotonic() + 20
    while True:
        try:
            version = await tracker.register(registration)
            break
        except TrackingError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    assert (version.run_id, version.version) == (run_id, 1)
    assert await experiment.numbers() == [1]
    (run,) = await tracker.running(INSTALL, [experiment.name])
    assert run.metrics == {"loss": 1.5}

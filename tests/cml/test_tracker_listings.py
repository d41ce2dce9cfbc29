"""The tracker of a workspace whose lists tell less than its objects do."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.tracking.base import Registration, TrackingError
from kubetune.tracking.cml import CmlTracker

from tests.believing import anybodys
from tests.cml.workspaces import Workspace, refusal, talking

pytestmark = pytest.mark.usefixtures("cmlapi_path")


PROJECT = "/api/v2/projects/p"
RUNS = f"{PROJECT}/experiments/7/runs"
MODELS = "/api/v2/registry/models"
TAGS = [
    {"key": plan.TAG_RUN_KEY, "value": "key-1"},
    {"key": plan.TAG_INSTALL, "value": "install-1"},
    {"key": plan.TAG_LINEAGE, "value": "digest"},
]
BARE = {"id": "r-1", "experiment_id": "7", "status": "EXPERIMENT_RUN_RUNNING"}
ANSWERS: dict[str, JsonObject] = {
    "/api/v2/projects": {"projects": [{"id": "p", "name": "tune"}]},
    f"{PROJECT}/experiments": {"experiments": [{"id": "7", "name": "e"}]},
    RUNS: {"experiment_runs": [BARE, {"id": "r-0", "status": "EXPERIMENT_RUN_FINISHED"}]},
    f"{RUNS}/r-1": {**BARE, "data": {"tags": TAGS}},
    f"{RUNS}/r-0": {"id": "r-0", "data": {"tags": []}},
    MODELS: {"models": [{"model_id": "m", "name": "tickets"}]},
    f"{MODELS}/m": {"model_id": "m", "model_versions": [{"model_version_id": "v", "number": 4}]},
    f"{MODELS}/m/versions/v": {
        "model_version_id": "v",
        "number": 4,
        "status": "READY",
        "model_version_metadata": {"mlflow_metadata": {"experiment_id": "7", "run_id": "r-1"}},
    },
}


@asynccontextmanager
async def workspace(
    **changes: list[JsonObject],
) -> AsyncGenerator[tuple[CmlTracker, Workspace]]:
    """A workspace with these answers; ``version`` is a row of answers of which the last stays."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        path = urlsplit(request.path_qs).path
        if path.endswith("/versions/v") and (rows := changes.get("version")):
            return web.json_response(rows.pop(0) if len(rows) > 1 else rows[0])
        if path not in ANSWERS:
            return web.json_response(refusal(5, "not found"), status=404)
        return web.json_response(ANSWERS[path])

    async with talking(handle) as (client, server):
        yield CmlTracker(client, "tune"), server


async def test_runs_are_read_one_by_one_when_their_list_has_no_data():
    async with workspace() as (tracker, server):
        (run,) = await tracker.running("install-1", ["e"])
        assert (run.run_key, run.run_id) == ("key-1", "r-1")
        asked = [line for line in server.asked if "/runs/" in line]
        assert asked == [f"GET {RUNS}/r-1"], "those that have ended are not asked for"
        found = await tracker.find_run("key-1", "e")
        assert found
        assert found.run_id == "r-1"


async def test_lineage_is_that_of_the_run_when_the_version_lost_it():
    async with workspace() as (tracker, _):
        found = await tracker.find_identical("tickets", "digest", anybodys)
        assert found
        assert (found.version, found.run_id, found.source) == (4, "r-1", "models:/tickets/4")
        assert await tracker.find_identical("tickets", "another", anybodys) is None


def version(status: str) -> JsonObject:
    return {**ANSWERS[f"{MODELS}/m/versions/v"], "status": status}


async def test_a_version_that_is_being_registered_is_waited_for():
    rows = [version("REGISTERING"), version("REGISTERING"), version("READY")]
    registration = Registration("tickets", None, "7", "r-1", "runs:/r-1/model", {})
    async with workspace(version=rows) as (tracker, server):
        found = await tracker.register(registration)
    assert (found.version, found.status) == (4, "READY")
    assert not [line for line in server.asked if line.startswith("POST")]


async def test_a_version_that_is_not_ready_is_neither_reused_nor_taken():
    registration = Registration("tickets", None, "7", "r-1", "runs:/r-1/model", {})
    async with workspace(version=[version("FAILED")]) as (tracker, server):
        assert await tracker.find_identical("tickets", "digest", anybodys) is None
        with pytest.raises(TrackingError, match="version 4 of tickets is FAILED_REGISTRATION"):
            await tracker.register(registration)
    assert not [line for line in server.asked if line.startswith("POST")]

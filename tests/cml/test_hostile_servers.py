"""Servers that answer with what no reader should take in cost neither memory nor time."""

import asyncio
import time
import tracemalloc

import pytest
from kubetune.api.conditions import Reason
from kubetune.clients.cml import CmlClient, CmlError
from kubetune.clients.cml_operations import GET_PROJECT
from kubetune.tracking.base import TrackingError
from kubetune.tracking.mlflow import MlflowTracker

from tests.cluster.hostile_server import ANSWERS, hostile

REFUSED = {
    "gzip", "twice", "brotli", "not_gzip", "deep", "deep_objects", "many", "digits", "long",
    "endless",
}  # fmt: skip
LIMITED = {"gzip", "deep", "deep_objects", "many", "long", "endless"}
BYTES = 80 * 2**20


class Peak:
    """The most memory that Python has taken within the block."""

    size = 0

    def __enter__(self) -> "Peak":
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_of_a_tracking_server_is_bounded(name: str) -> None:
    with hostile(name) as server:
        tracker = MlflowTracker(server.url, timeout_seconds=2)
        with Peak() as peak, pytest.raises(TrackingError) as caught:
            await tracker.find_run("key", "experiment")
        asked = server.asked
        if caught.value.reason == Reason.ANSWER_REFUSED and name in LIMITED:
            with pytest.raises(TrackingError, match="an answer of"):
                await tracker.find_run("key", "experiment")
            assert server.asked == asked, "it is not asked again at once"
        await tracker.close()
    assert peak.size < BYTES
    assert caught.value.reason != Reason.TRACKING_REFUSED, "no job fails for it"
    if name in LIMITED:
        assert caught.value.reason == Reason.ANSWER_REFUSED, caught.value
        assert server.url in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "s3cret" not in str(caught.value)


async def test_a_version_is_a_version_and_no_other_text() -> None:
    with hostile("secret") as server:
        tracker = MlflowTracker(server.url, timeout_seconds=2)
        with pytest.raises(TrackingError) as caught:
            await tracker.server_version()
        await tracker.close()
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("cmlapi_path")
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_of_a_workspace_is_bounded(name: str) -> None:
    with hostile(name) as server:
        client = CmlClient(server.url, "key", timeouts=(1, 1))
        began = time.monotonic()
        with Peak() as peak, pytest.raises(CmlError) as caught:
            async with asyncio.timeout(60):
                await client.read(GET_PROJECT, "p")
        assert caught.value.retryable, caught.value
        if name.startswith("dripping"):
            assert "did not answer get_project in time" in str(caught.value)
            assert time.monotonic() - began < 30
        await client.close()
    assert peak.size < BYTES
    assert len(str(caught.value)) <= 300
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("cmlapi_path")
@pytest.mark.parametrize("name", ["gzip", "long", "endless", "dripping"])
async def test_a_file_of_a_project_is_bounded(name: str) -> None:
    with hostile(name) as server:
        client = CmlClient(server.url, "key", timeouts=(1, 1))
        with Peak() as peak, pytest.raises(CmlError):
            await client.download("p", "outcome.json")
        await client.close()
    assert peak.size < BYTES


async def test_many_hostile_servers_together_get_no_more_than_one() -> None:
    servers = [hostile("endless") for _ in range(40)]
    with Peak() as peak:
        entered = [server.__enter__() for server in servers]
        trackers = [MlflowTracker(server.url, timeout_seconds=4) for server in entered]
        ended = await asyncio.gather(
            *(tracker.find_run("key", "experiment") for tracker in trackers),
            return_exceptions=True,
        )
        for server, tracker in zip(servers, trackers, strict=True):
            server.__exit__(None, None, None)
            await tracker.close()
    assert all(isinstance(error, TrackingError) for error in ended)
    # The room, and what joins the pieces of one answer.
    assert peak.size < 64 * 2**20 + BYTES

"""What lists and watches say, and that a complete list says that the rest is gone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import pytest
from kubetune.api import JsonObject
from kubetune.clients import watching
from kubetune.clients.deep_objects import MAX_DEPTH, NESTED
from kubetune.clients.watching import AT_ONCE, Events, Lists, Urls
from kubetune.handlers import WATCHED, Feed
from kubetune.names import OWNER_KIND, OWNER_NAME
from kubetune.observe.cache import ObjectCache
from kubetune.queue import Key, WorkQueue
from yarl import URL

SERVER = "https://cluster.example/prefix/"


def body(kind: str, name: str, version: int, **fields: Any) -> JsonObject:
    metadata = {"namespace": "team", "name": name, "uid": f"uid-{name}"}
    metadata |= {"resourceVersion": str(version)} | fields.pop("metadata", {})
    return {"kind": kind, "metadata": metadata, **fields}


class Pieces:
    """What aiohttp's StreamReader gives of a stream."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


class World:
    """A cache, and what its changes put into the queue."""

    def __init__(self) -> None:
        self.cache, self.queue = ObjectCache(), WorkQueue()
        self.feed = Feed(self.cache, self.queue)
        self.lists = Lists(Urls(SERVER, WATCHED), self.feed)

    def names(self, kind: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.cache.of_kind(kind)}

    async def listed(
        self, path: str, *items: JsonObject, page: str = "", following: str = ""
    ) -> JsonObject:
        """The answer to a GET of this path: a page of a list, by default all of it."""
        url = URL(SERVER.rstrip("/") + path).with_query({"limit": "250"})
        metadata = {"resourceVersion": "100", "continue": following}
        return await self.lists.read(
            url.update_query({"continue": page} if page else {}),
            {"apiVersion": "kubetune.io/v1", "metadata": metadata, "items": [*items]},
        )

    async def watch(self, *pieces: bytes) -> list[JsonObject]:
        """What kopf sees of a watch of Datasets that comes in these pieces."""
        events = Events(cast("Any", Pieces(pieces)), ("Dataset", None), self.feed)
        return [json.loads(line) async for line in events.iter_chunked(2**20)]

    async def woken(self) -> set[Key]:
        """Keys that were put into the queue since the last call."""
        found = set[Key]()

        async def work(key: Key) -> None:
            found.add(key)

        with contextlib.suppress(TimeoutError):
            # The keys are there: nothing is waited for.
            async with asyncio.timeout(0.01):
                await self.queue.run(work, 1)
        return found


@pytest.fixture
async def world() -> World:
    return World()


DATASETS = "/apis/kubetune.io/v1alpha1/datasets"
IN_TEAM = "/apis/kubetune.io/v1alpha1/namespaces/team/datasets"


async def test_what_a_list_lacks_is_gone_and_its_dependents_look_again(world: World):
    job = body("FineTuneJob", "tune", 1, spec={"datasetRef": {"name": "rows"}})
    for item in (job, body("Dataset", "rows", 2), body("Dataset", "kept", 3)):
        world.cache.put(item)
    await world.woken()
    await world.listed(DATASETS, body("Dataset", "kept", 3))
    assert world.names("Dataset") == {"kept"}
    assert await world.woken() == {
        Key("Dataset", "team", "rows"),
        Key("FineTuneJob", "team", "tune"),
    }


@pytest.mark.parametrize("path", [DATASETS, IN_TEAM])
async def test_a_list_of_nothing_is_news_too(world: World, path: str):
    world.cache.put(body("Dataset", "only", 2))
    await world.listed(path)
    assert world.names("Dataset") == set()


async def test_a_child_wakes_its_owner(world: World):
    marks = {"labels": {OWNER_KIND: "FineTuneJob"}, "annotations": {OWNER_NAME: "tune"}}
    world.cache.put(body("Job", "tune-1", 2, metadata=marks))
    world.cache.put(body("Pod", "tune-1-x", 2, metadata=marks))
    await world.woken()
    await world.listed("/apis/batch/v1/jobs")
    assert await world.woken() == {Key("FineTuneJob", "team", "tune")}
    await world.listed("/api/v1/pods")
    assert await world.woken() == {Key("FineTuneJob", "team", "tune")}


async def test_a_successor_of_the_same_name_is_another_object(world: World):
    world.cache.put(body("Dataset", "rows", 2))
    await world.listed(DATASETS, body("Dataset", "rows", 50, metadata={"uid": "new"}))
    assert [item["metadata"]["uid"] for item in world.cache.of_kind("Dataset")] == ["new"]


async def test_what_was_made_after_the_list_stays(world: World):
    world.cache.put(body("Dataset", "later", 101))
    await world.listed(DATASETS)
    assert world.names("Dataset") == {"later"}


async def test_late_news_of_what_a_list_lacked_bring_nothing_back(world: World):
    world.cache.put(body("Dataset", "rows", 2))
    await world.listed(DATASETS)
    world.feed.seen(body("Dataset", "rows", 90, spec={}))
    assert world.names("Dataset") == set()


async def test_a_list_counts_when_its_last_page_is_there(world: World):
    first, second = body("Dataset", "a", 1), body("Dataset", "b", 2)
    for item in (first, second, body("Dataset", "c", 3)):
        world.cache.put(item)
    await world.listed(DATASETS, first, following="second")
    assert world.names("Dataset") == {"a", "b", "c"}
    await world.listed(DATASETS, page="second")
    assert world.names("Dataset") == {"a"}


async def test_objects_of_a_list_are_handed_on_page_by_page_and_kopf_gets_none(world: World):
    items = [body("ignored", f"rows-{number}", number + 1) for number in range(2 * AT_ONCE + 1)]
    half = len(items) // 2
    assert (await world.listed(DATASETS, *items[:half], following="second"))["items"] == []
    assert len(world.names("Dataset")) == half
    assert (await world.listed(DATASETS, *items[half:], page="second"))["items"] == []
    assert len(world.names("Dataset")) == len(items)
    assert {item["apiVersion"] for item in world.cache.of_kind("Dataset")} == {"kubetune.io/v1"}


async def test_a_list_that_broke_off_begins_anew(world: World):
    first = body("Dataset", "a", 1)
    world.cache.put(first)
    await world.listed(DATASETS, first, following="second")
    await world.listed(DATASETS, following="second")
    await world.listed(DATASETS, page="second")
    assert world.names("Dataset") == set()


async def test_a_list_says_nothing_of_other_kinds_and_namespaces(world: World):
    away = body("Dataset", "away", 1, metadata={"namespace": "other"})
    for item in (away, body("Model", "base", 1, spec={}), body("Dataset", "here", 1)):
        world.cache.put(item)
    await world.listed(IN_TEAM)
    await world.listed("/api/v1/namespaces")
    assert (world.names("Dataset"), world.names("Model")) == ({"away"}, {"base"})


def test_every_watched_kind_is_known_by_its_url():
    urls = Urls(SERVER, WATCHED)
    prefix = "https://cluster.example/prefix"
    paths = {
        "Job": f"{prefix}/apis/batch/v1/jobs",
        "Pod": f"{prefix}/api/v1/pods",
        "ConfigMap": f"{prefix}/api/v1/configmaps",
        "ClusterTuningProfile": f"{prefix}/apis/kubetune.io/v1alpha1/clustertuningprofiles",
    }
    for kind, url in paths.items():
        assert urls.scope(URL(url)) == (kind, None)
    scoped = f"{prefix}/api/v1/namespaces/pods/configmaps?watch=true"
    assert urls.scope(URL(scoped)) == ("ConfigMap", "pods")
    assert urls.scope(URL(f"{prefix}/api/v1/namespaces")) is None


def line(event_type: str, item: JsonObject) -> bytes:
    return json.dumps({"type": event_type, "object": item}).encode() + b"\n"


def versions(seen_by_kopf: list[JsonObject]) -> list[tuple[str, str]]:
    return [
        (event["type"], event["object"]["metadata"]["resourceVersion"]) for event in seen_by_kopf
    ]


async def test_events_are_handed_on_and_kopf_learns_how_far_they_go(world: World):
    rows, other = body("Dataset", "rows", 1), body("Dataset", "other", 2)
    known = await world.watch(
        line("ADDED", rows) + line("ADDED", other),
        line("MODIFIED", body("Dataset", "rows", 3, spec={"new": True})),
        line("DELETED", body("Dataset", "other", 4)),
        line("BOOKMARK", {"kind": "Dataset", "metadata": {"resourceVersion": "9"}}),
    )
    assert versions(known) == [("BOOKMARK", str(version)) for version in (2, 3, 4, 9)]
    assert world.names("Dataset") == {"rows"}
    found = world.cache.get("Dataset", "team", "rows")
    assert found
    assert found["spec"] == {"new": True}
    assert Key("Dataset", "team", "other") in await world.woken()


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_lines_come_in_pieces_and_the_last_may_break_off(world: World, size: int):
    items = [body("Dataset", f"rows-{number}", number) for number in range(2 * AT_ONCE + 1)]
    data = b"\n".join(line("ADDED", item) for item in items)
    known = await world.watch(*(data[at : at + size] for at in range(0, len(data) - 1, size)))
    # A last piece without the end of its line was never a whole event.
    whole = {item["metadata"]["name"] for item in items}
    assert world.names("Dataset") in (whole, whole - {items[-1]["metadata"]["name"]})
    assert versions(known)[-1][1] == str(len(world.names("Dataset")) - 1)


@pytest.mark.parametrize(
    "instead",
    [
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 500, "metadata": {}}}\n',
        b'{"object": {"code": 410, "kind": "Status"}, "type": "ERROR"}\n',
        b"upstream connect error\n",
        b"[]\n",
        b'{"type": "ADDED", "object": null}\n',
    ],
)
async def test_what_is_no_event_makes_kopf_list_again(
    world: World, instead: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "PAUSE_SECONDS", 0)
    before, after = body("Dataset", "before", 1), body("Dataset", "after", 2)
    known = await world.watch(line("ADDED", before) + instead + line("ADDED", after))
    assert [(event["type"], event["object"].get("code")) for event in known] == [("ERROR", 410)]
    assert world.names("Dataset") == {"before"}


async def test_one_odd_object_hides_no_other(world: World):
    odd = body("Dataset", "odd", 1, metadata={"ownerReferences": 1, "resourceVersion": "none"})
    deep: Any = {}
    for _ in range(3 * MAX_DEPTH):
        deep = {"deeper": deep}
    nested, plain = body("Dataset", "nested", 2, spec=deep), body("Dataset", "plain", 3)
    assert versions(
        await world.watch(b"".join(line("ADDED", item) for item in (odd, nested, plain)))
    )
    assert world.names("Dataset") == {"nested", "plain"}
    found = world.cache.get("Dataset", "team", "nested")
    assert found
    assert found["spec"] == {NESTED: True}
    await world.listed(IN_TEAM, odd, nested, plain)
    assert world.names("Dataset") == {"nested", "plain"}

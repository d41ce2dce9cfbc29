"""What a complete list of a kind says: the rest is gone, and who depended on it looks again."""

import asyncio
import contextlib
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune.clients.watching import Lists, Urls
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


class World:
    """A cache, and what its changes put into the queue."""

    def __init__(self) -> None:
        self.cache, self.queue = ObjectCache(), WorkQueue()
        self.feed = Feed(self.cache, self.queue)
        self.lists = Lists(Urls(SERVER, WATCHED), self.feed)

    def names(self, kind: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.cache.of_kind(kind)}

    def list(self, path: str, *items: JsonObject, page: str = "", following: str = "") -> None:
        """The answer to a GET of this path: a page of a list, by default all of it."""
        url = URL(SERVER.rstrip("/") + path).with_query({"limit": "250"})
        metadata = {"resourceVersion": "100", "continue": following}
        self.lists.read(
            url.update_query({"continue": page} if page else {}),
            {"metadata": metadata, "items": list(items)},
        )

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
    world.list(DATASETS, body("Dataset", "kept", 3))
    assert world.names("Dataset") == {"kept"}
    assert await world.woken() == {
        Key("Dataset", "team", "rows"),
        Key("FineTuneJob", "team", "tune"),
    }


@pytest.mark.parametrize("path", [DATASETS, IN_TEAM])
async def test_a_list_of_nothing_is_news_too(world: World, path: str):
    world.cache.put(body("Dataset", "only", 2))
    world.list(path)
    assert world.names("Dataset") == set()


async def test_a_child_wakes_its_owner(world: World):
    marks = {"labels": {OWNER_KIND: "FineTuneJob"}, "annotations": {OWNER_NAME: "tune"}}
    world.cache.put(body("Job", "tune-1", 2, metadata=marks))
    world.cache.put(body("Pod", "tune-1-x", 2, metadata=marks))
    await world.woken()
    world.list("/apis/batch/v1/jobs")
    assert await world.woken() == {Key("FineTuneJob", "team", "tune")}
    world.list("/api/v1/pods")
    assert await world.woken() == {Key("FineTuneJob", "team", "tune")}


async def test_a_successor_of_the_same_name_is_another_object(world: World):
    world.cache.put(body("Dataset", "rows", 2))
    world.list(DATASETS, body("Dataset", "rows", 50, metadata={"uid": "new"}))
    assert world.names("Dataset") == set()


async def test_what_was_made_after_the_list_stays(world: World):
    world.cache.put(body("Dataset", "later", 101))
    world.list(DATASETS)
    assert world.names("Dataset") == {"later"}


async def test_late_news_of_what_a_list_lacked_bring_nothing_back(world: World):
    world.cache.put(body("Dataset", "rows", 2))
    world.list(DATASETS)
    world.feed.seen(body("Dataset", "rows", 90, spec={}))
    assert world.names("Dataset") == set()


async def test_a_list_counts_when_its_last_page_is_there(world: World):
    first, second = body("Dataset", "a", 1), body("Dataset", "b", 2)
    for item in (first, second, body("Dataset", "c", 3)):
        world.cache.put(item)
    world.list(DATASETS, first, following="second")
    assert world.names("Dataset") == {"a", "b", "c"}
    world.list(DATASETS, page="second")
    assert world.names("Dataset") == {"a"}


async def test_a_list_that_broke_off_begins_anew(world: World):
    first = body("Dataset", "a", 1)
    world.cache.put(first)
    world.list(DATASETS, first, following="second")
    world.list(DATASETS, following="second")
    world.list(DATASETS, page="second")
    assert world.names("Dataset") == set()


async def test_a_list_says_nothing_of_other_kinds_and_namespaces(world: World):
    away = body("Dataset", "away", 1, metadata={"namespace": "other"})
    for item in (away, body("Model", "base", 1, spec={}), body("Dataset", "here", 1)):
        world.cache.put(item)
    world.list(IN_TEAM)
    world.list("/api/v1/namespaces")
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

"""The object cache: the newest version wins, and the look-ups follow it."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.handlers import Feed
from kubetune.names import RUN_KEY
from kubetune.observe.cache import ObjectCache
from kubetune.observe.references import DEFAULT_TARGETS, references
from kubetune.queue import Key, WorkQueue

JOB = Key("FineTuneJob", "team", "tune")


def body(kind: str, name: str, version: int, uid: str = "u1", **fields: Any) -> JsonObject:
    metadata = {"namespace": "team", "name": name, "uid": uid, "resourceVersion": str(version)}
    return {"kind": kind, "metadata": metadata | fields.pop("metadata", {}), **fields}


def tuning(version: int, model: str, **fields: Any) -> JsonObject:
    spec = {"modelRef": {"name": model}, "datasetRef": {"name": "rows"}}
    return body("FineTuneJob", "tune", version, spec=spec, **fields)


def child(version: int, owner: str, kind: str = "Job") -> JsonObject:
    references = [{"uid": owner, "controller": True}, {"uid": "other"}]
    return body(kind, "tune-1", version, metadata={"ownerReferences": references})


def test_older_version_never_replaces_a_newer() -> None:
    cache = ObjectCache()
    assert cache.put(tuning(10, "a"))
    assert not cache.put(tuning(9, "b"))
    assert not cache.put(tuning(10, "b"))
    assert cache.put(tuning(11, "c"))
    assert (cache.get(*JOB) or {})["spec"]["modelRef"]["name"] == "c"


def test_our_write_tells_what_it_has_overtaken() -> None:
    """Its event comes after our answer, and looks old: nobody else would look at the object."""
    cache = ObjectCache()
    told: list[tuple[int, bool]] = []
    cache.on_change = lambda item, ours: told.append(
        (int(item["metadata"]["resourceVersion"]), ours)
    )

    def written(version: int, uid: str, **metadata: Any) -> JsonObject:
        return tuning(version, "a", metadata={"uid": uid, "generation": 1} | metadata)

    cache.put(written(1, "first"), ours=False)
    cache.put(written(2, "first"))
    cache.put(written(4, "second"))
    cache.put(written(6, "second", generation=2))
    cache.put(written(7, "second", generation=2))
    cache.remove(written(7, "second", generation=2))
    cache.put(written(9, "third"))
    cache.put(child(10, "third"))
    news = [version for version, ours in told if not ours]
    assert news == [1, 4, 6, 9]


def test_late_news_of_a_predecessor_changes_nothing() -> None:
    """Deleted and made again: events of the first arrive after our create was answered."""
    cache = ObjectCache()
    cache.put(tuning(10, "old", metadata={"uid": "first"}))
    cache.put(tuning(20, "new", metadata={"uid": "second"}))
    assert not cache.put(tuning(15, "old", metadata={"uid": "first"}))
    cache.remove(tuning(16, "old", metadata={"uid": "first"}))
    assert (cache.get(*JOB) or {})["metadata"]["uid"] == "second"


def test_what_is_gone_comes_back_only_when_it_is_newer() -> None:
    """An event or the answer to our own write may come after the news of the deletion."""
    cache = ObjectCache()
    cache.put(tuning(10, "a"))
    assert cache.remove(tuning(12, "a"))
    assert not cache.put(tuning(11, "a"))
    assert cache.get(*JOB) is None
    assert not cache.remove(tuning(30, "b", uid="u2")), "unknown here, its creation is on its way"
    assert not cache.put(tuning(29, "b", uid="u2"))
    assert cache.put(tuning(13, "a")), "selected again, after its label was away"


def test_a_drop_is_told() -> None:
    cache, told = ObjectCache(), list[str]()
    cache.put(tuning(10, "a"))
    cache.on_change = lambda item, ours: told.append(item["metadata"]["name"])
    cache.drop(tuning(10, "a"))
    cache.drop(tuning(10, "a"))
    assert told == ["tune"]


def test_dependents_follow_the_references() -> None:
    cache = ObjectCache()
    cache.put(tuning(1, "a"))
    assert list(cache.dependents(Key("Model", "team", "a"))) == [JOB], "existing or not"
    cache.put(tuning(2, "b"))
    assert list(cache.dependents(Key("Model", "team", "a"))) == []
    assert list(cache.dependents(Key("Model", "team", "b"))) == [JOB]
    cache.remove(tuning(2, "b"))
    assert list(cache.dependents(Key("Model", "team", "b"))) == []


def test_children_are_found_by_their_controller() -> None:
    cache = ObjectCache()
    cache.put(child(1, "owner"))
    cache.put(child(1, "job-uid", "Pod"))
    assert [item["kind"] for item in cache.jobs("owner")] == ["Job"]
    assert [item["kind"] for item in cache.pods("job-uid")] == ["Pod"]
    assert cache.jobs("other") == []
    cache.put(child(2, "other-owner"))
    assert cache.jobs("owner") == []
    cache.remove(child(2, "other-owner"))
    assert cache.jobs("other-owner") == []


def test_who_is_named_as_controller_is_found_in_any_namespace() -> None:
    cache = ObjectCache()
    tune = tuning(1, "a", uid="tune")
    cache.put(tune)
    forged = child(2, "tune")
    forged["metadata"] |= {"namespace": "team-b", "uid": "forged"}
    assert cache.controller_key(forged) == JOB
    cache.put(forged)
    pod = child(3, "forged", "Pod")
    assert cache.controller_key(pod) == JOB
    for other in (child(3, "nobody"), child(3, "nobody", "Pod"), tune):
        assert cache.controller_key(other) is None
    cache.remove(tune)
    assert cache.controller_key(forged) is None


def test_jobs_that_nobody_of_ours_controls_are_known_by_their_label() -> None:
    cache, label = ObjectCache(), {"labels": {RUN_KEY: "k1"}}
    by_tune = [{"uid": "u", "kind": "FineTuneJob", "controller": True}]
    references = [None, [by_tune[0] | {"kind": "CronJob"}], [by_tune[0] | {"controller": False}]]
    for at, owners in enumerate(references):
        cache.put(body("Job", f"a-{at}", at, metadata=label | {"ownerReferences": owners or []}))
    assert len(cache.loose_jobs("k1")) == len(references)
    cache.put(body("Job", "a-0", 9, metadata=label | {"ownerReferences": by_tune}))
    cache.put(body("Job", "a-1", 9))
    assert [item["metadata"]["name"] for item in cache.loose_jobs("k1")] == ["a-2"]
    assert cache.loose_jobs("") == []


def test_each_change_is_told_once_and_whose_it_was() -> None:
    cache, told = ObjectCache(), list[tuple[str, bool]]()
    cache.on_change = lambda item, ours: told.append((item["metadata"]["resourceVersion"], ours))
    cache.put(tuning(1, "a"), ours=False)
    cache.put(tuning(2, "a"))
    cache.put(tuning(2, "a"), ours=False)
    assert told == [("1", False), ("2", True)], "the watch repeats what our write has answered"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "remove"]),
            st.sampled_from("abc"),
            st.sampled_from(["x", "y", None]),
        ),
        max_size=20,
    )
)
def test_indices_hold_what_the_objects_say(events: list[tuple[str, str, str | None]]) -> None:
    """Events are (what, name of a Dataset, Model that it names)."""
    cache = ObjectCache()
    for version, (what, name, model) in enumerate(events, 1):
        spec = {"tokenizerRef": {"name": model}} if model else {}
        given = body("Dataset", name, version, spec=spec)
        if what == "put":
            cache.put(given)
        else:
            cache.remove(given)
    present = cache.of_kind("Dataset", "team")
    for model in ("x", "y"):
        naming = {
            Key("Dataset", "team", item["metadata"]["name"])
            for item in present
            if item["spec"].get("tokenizerRef") == {"name": model}
        }
        assert set(cache.dependents(Key("Model", "team", model))) == naming
    if not present:
        assert not cache._dependents, "nothing is left behind"


async def test_a_job_is_told_of_what_its_adapter_and_profile_name() -> None:
    cache, queue, told = ObjectCache(), WorkQueue(), asyncio.Event()
    woken: list[Key] = []

    async def work(key: Key) -> None:
        woken.append(key)
        if len(queue) == 1:
            told.set()

    async def wakes(news: JsonObject) -> set[Key]:
        woken.clear()
        told.clear()
        feed.seen(news)
        await told.wait()
        return set(woken)

    profile = {"trainer": {"script": {"configMapRef": {"name": "code", "key": "train.py"}}}}
    cache.put(tuning(1, "adapter"))
    cache.put(body("Model", "adapter", 1, spec={"baseModelRef": {"name": "base"}}))
    cache.put(body("TuningProfile", "own", 1, spec=profile))
    named = {"modelRef": {"name": "x"}, "profileRef": {"kind": "TuningProfile", "name": "own"}}
    cache.put(body("FineTuneJob", "scripted", 1, uid="u2", spec=named))
    feed, worker = Feed(cache, queue), asyncio.create_task(queue.run(work, 1))
    adapter, base = Key("Model", "team", "adapter"), Key("Model", "team", "base")
    assert await wakes(body("Model", "base", 2, spec={})) == {base, adapter, JOB}
    scripted = Key("FineTuneJob", "team", "scripted")
    assert await wakes(body("ConfigMap", "code", 2)) == {scripted}
    worker.cancel()


def test_references_of_each_kind() -> None:
    def found(kind: str, spec: JsonObject) -> set[Key]:
        return set(references(Key(kind, "team", "it"), {"spec": spec}))

    default = Key("ComputeTarget", "", DEFAULT_TARGETS)
    everything = {
        "modelRef": {"name": "m"},
        "datasetRef": {"name": "d"},
        "promptRef": {"name": "p"},
        "profileRef": {"kind": "ClusterTuningProfile", "name": "t"},
        "computeTargetRef": {"kind": "ClusterComputeTarget", "name": "c"},
        "output": {"modelName": "out"},
    }
    assert found("FineTuneJob", everything) == {
        Key("Model", "team", "m"),
        Key("Dataset", "team", "d"),
        Key("PromptTemplate", "team", "p"),
        Key("ClusterTuningProfile", "", "t"),
        Key("ClusterComputeTarget", "", "c"),
        Key("Model", "team", "out"),
    }
    config = {"source": {"configMap": {"name": "rows", "key": "k"}}}
    assert found("Dataset", config) == {default, Key("ConfigMap", "team", "rows")}
    made = {"source": {"fineTuneJob": {"name": "j"}}, "baseModelRef": {"name": "b"}}
    assert found("Model", made) == {
        default,
        Key("FineTuneJob", "team", "j"),
        Key("Model", "team", "b"),
    }
    assert found("PromptTemplate", {}) == {default}
    assert found("ComputeTarget", {}) == set()

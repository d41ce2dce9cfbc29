"""Objects that are over are packed: the look-ups are the same, and little of them is kept."""

import copy
import sys
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune.observe.cache import ObjectCache
from kubetune.observe.packed import Packed, Packer, is_over, unpack
from kubetune.queue import Key

FINISHED = [{"type": "Complete", "status": "True"}]
OWNER = [{"uid": "u-job", "controller": True, "kind": "FineTuneJob"}]


def body(kind: str, name: str, version: int = 1, uid: str = "", **fields: Any) -> JsonObject:
    metadata = {"namespace": "team", "name": name, "resourceVersion": str(version)}
    metadata |= {"uid": uid or f"u-{name}", "generation": 1} | fields.pop("metadata", {})
    return {"kind": kind, "metadata": metadata, **fields}


def tuning(phase: str, version: int = 1, **metadata: Any) -> JsonObject:
    spec = {"modelRef": {"name": "base"}, "datasetRef": {"name": "rows"}}
    status = {"phase": phase, "runKey": "tune-1a"}
    return body("FineTuneJob", "job", version, spec=spec, status=status, metadata=metadata)


def child(kind: str, version: int = 1, **status: Any) -> JsonObject:
    owner = {"ownerReferences": OWNER if kind == "Job" else [{"uid": "u-run", "controller": True}]}
    name = "run" if kind == "Job" else "pod"
    return body(kind, name, version, status=status, metadata=owner)


@pytest.mark.parametrize(
    ("item", "over"),
    [
        (tuning("Succeeded"), True),
        (tuning("Failed"), True),
        (tuning("Running"), False),
        (tuning("Succeeded", deletionTimestamp="2026-01-01T00:00:00Z"), False),
        (child("Job", conditions=FINISHED), True),
        (child("Job", conditions=[{"type": "Failed", "status": "True"}]), True),
        (child("Job", conditions=[{"type": "Complete", "status": "False"}]), False),
        (child("Job"), False),
        (child("Pod", phase="Succeeded"), True),
        (child("Pod", phase="Running"), False),
        (body("Model", "base", status={"phase": "Succeeded"}), False),
    ],
)
def test_what_is_over(item: JsonObject, over: bool) -> None:
    assert is_over(item) is over


@pytest.mark.parametrize("text", ["", "ü", "\ud800", "x" * 100_000, "[1]"])
def test_what_is_unpacked_is_what_was_packed(text: str) -> None:
    packer = Packer()
    for item in (tuning("Failed"), body("FineTuneJob", "other", status={"told": text})):
        assert unpack(packer.pack(item, 7)) == item


def test_the_cache_finds_what_is_over_as_before() -> None:
    cache = ObjectCache()
    told: list[JsonObject] = []
    cache.on_change = lambda item, ours: told.append(item)
    items = [
        tuning("Succeeded"),
        child("Job", conditions=FINISHED),
        child("Pod", phase="Succeeded"),
    ]
    for item in copy.deepcopy(items):
        assert cache.put(item, ours=False)
    job, run, pod = items
    assert [item["kind"] for item in told] == ["FineTuneJob", "Job", "Pod"]
    assert cache.get("FineTuneJob", "team", "job") == job
    assert cache.of_kind("FineTuneJob") == cache.of_kind("FineTuneJob", "team") == [job]
    assert cache.under_way("FineTuneJob") == []
    assert [item["metadata"]["name"] for item in cache.jobs("u-job")] == ["run"]
    assert [item["metadata"]["name"] for item in cache.pods("u-run")] == ["pod"]
    assert cache.controller_key(pod) == Key("FineTuneJob", "team", "job")
    assert list(cache.dependents(Key("Model", "team", "base"))) == [
        Key("FineTuneJob", "team", "job")
    ]
    assert cache.has(Key("Job", "team", "run"))
    assert cache.count("Pod") == 1
    assert run["metadata"]["uid"] == "u-run"


def test_versions_and_absence_are_compared_without_unpacking() -> None:
    cache = ObjectCache()
    cache.put(tuning("Succeeded", 5), ours=False)
    assert not cache.put(tuning("Running", 4), ours=False)
    assert cache.missing("FineTuneJob", None, {("team", "job"): "u-job"}, 9) == []
    assert cache.missing("FineTuneJob", None, {}, 4) == []
    assert [item["metadata"]["name"] for item in cache.missing("FineTuneJob", None, {}, 9)] == [
        "job"
    ]
    assert cache.missing("FineTuneJob", None, {("team", "job"): "another"}, 9)


def test_what_goes_on_is_a_map_again_and_what_is_gone_leaves_nothing() -> None:
    cache = ObjectCache()
    cache.put(tuning("Succeeded", 1), ours=False)
    cache.put(child("Job", conditions=FINISHED), ours=False)
    cache.put(tuning("Running", 2), ours=False)
    assert len(cache.under_way("FineTuneJob")) == 1
    assert cache.remove(tuning("Succeeded", 3))
    assert cache.remove(child("Job", 2, conditions=FINISHED))
    assert cache.get("FineTuneJob", "team", "job") is None
    assert cache.jobs("u-job") == []
    assert list(cache.dependents(Key("Model", "team", "base"))) == []
    assert cache.count("Job") == 0


def test_a_finished_object_takes_little_room() -> None:
    packer = Packer()
    status = {
        f"field{number}": {"digest": f"sha256:{number:064}", "text": "all inputs are there and fit"}
        for number in range(40)
    }

    def finished(name: str) -> JsonObject:
        return body("FineTuneJob", name, status=status | {"phase": "Succeeded"}, spec={})

    packer.pack(finished("first"), 1)
    packed = packer.pack(finished("second"), 2)
    assert isinstance(packed, Packed)
    assert sys.getsizeof(packed.text) < 1000

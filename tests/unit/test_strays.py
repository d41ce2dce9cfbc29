"""Pods without their Job: which count, and what is made of them."""

from typing import Any

import pytest
from builders import KEYS, NOW, RUN_KEY, attempt, job, names, observed_job, run, tried
from kubetune.decide.fine_tune_job.states import decide
from kubetune.names import MARK, OWNER_KIND, OWNER_NAME
from kubetune.names import RUN_KEY as KEY_LABEL
from kubetune.observe.cache import ObjectCache
from kubetune.targets.kubernetes.strays import is_loose, stray_states, without_job

OWNER = job().owner
OUR_MARK = KEYS.code("Job", "team", f"tune-{RUN_KEY}-1")
RUNNING = tried(attempt(1, "Running"))


def pod(number: int = 1, controller: str | None = None, **metadata: Any) -> dict[str, Any]:
    name = f"tune-{RUN_KEY}-{number}"
    labels = {
        KEY_LABEL: RUN_KEY,
        OWNER_KIND: "FineTuneJob",
        "batch.kubernetes.io/job-name": name,
    }
    given: dict[str, Any] = {
        "name": f"{name}-abcde",
        "namespace": "team",
        "uid": f"pod-{number}",
        "resourceVersion": "5",
        "labels": labels | metadata.pop("labels", {}),
        "annotations": {OWNER_NAME: "tune", MARK: KEYS.code("Job", "team", name)},
    }
    if controller:
        given["ownerReferences"] = [{"uid": controller, "controller": True, "kind": "Job"}]
    return {"kind": "Pod", "metadata": given | metadata, "status": {"phase": "Running"}}


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        (pod(), True),
        (pod(controller="ours"), False),
        (pod(controller="another"), True),
        (pod(labels={"batch.kubernetes.io/job-name": "tune-fedcba9876543210-1"}), False),
        (pod(labels={OWNER_KIND: "Evaluation"}), False),
        (pod(annotations={OWNER_NAME: "another", MARK: OUR_MARK}), False),
        (pod(annotations={OWNER_NAME: "tune", MARK: OUR_MARK}), True),
        (pod(annotations=None), False),
        (pod(annotations={OWNER_NAME: "tune"}), False),
        (pod(annotations={OWNER_NAME: "tune", MARK: "0" * 32}), False),
        (pod(annotations={OWNER_NAME: "tune", MARK: ""}), False),
        (pod(namespace="another"), False),
        (pod(labels={"batch.kubernetes.io/job-name": f"tune-{RUN_KEY}-9"}), False),
    ],
)
def test_whose_pods_have_lost_their_job(given: dict[str, Any], counts: bool) -> None:
    assert bool(without_job([given], OWNER, RUN_KEY, {"ours"}, KEYS)) is counts


def test_only_what_nobody_ends_is_stopped() -> None:
    assert is_loose(pod())
    assert not is_loose(pod(controller="another"))
    assert not is_loose(pod(deletionTimestamp="2026-01-02T03:04:05Z"))
    (state,) = stray_states([pod(2)], RUN_KEY)
    assert (state.attempt, state.phase, state.stray, state.foreign) == (2, "stopping", True, False)
    assert state.look_again_seconds is None
    (state,) = stray_states([pod(controller="another")], RUN_KEY, {"another"})
    assert (state.stray, state.foreign) == (False, True)
    assert state.look_again_seconds
    # Its Job is gone, and its owner reference is about to be.
    (state,) = stray_states([pod(controller="another")], RUN_KEY)
    assert (state.stray, state.foreign) == (False, False)


def test_the_cache_knows_living_pods_by_run_key() -> None:
    cache = ObjectCache()
    cache.put(pod())
    assert [item["metadata"]["uid"] for item in cache.live_pods(RUN_KEY)] == ["pod-1"]
    assert cache.live_pods("another") == []
    assert len(cache.live_pods_of("FineTuneJob", "team", "tune")) == 1
    cache.put(pod(resourceVersion="6") | {"status": {"phase": "Succeeded"}})
    assert cache.live_pods(RUN_KEY) == []


@pytest.mark.parametrize("spec", [{}, {"suspend": True}])
def test_a_stray_is_stopped_and_waited_for(spec: dict[str, Any]) -> None:
    stray = run(1, "stopping", stray=True, message="pod tune-1 still runs")
    decision = decide(observed_job(job(spec, status=RUNNING), runs=[stray]), NOW)
    assert names(decision) == ["StopStrays"]
    assert (decision.status or {})["phase"] == "Stopping"
    told = run(1, "stopping", message="pod tune-1 still runs", look_again_seconds=10.0)
    decision = decide(observed_job(job(spec, status=RUNNING), runs=[told]), NOW)
    assert (names(decision), decision.requeue_after) == ([], 10.0)


def test_a_deleted_job_waits_for_strays_but_not_for_what_was_cut_loose() -> None:
    deleted = job(status=RUNNING, deleting=True)
    stray = run(1, "stopping", stray=True)
    assert names(decide(observed_job(deleted, runs=[stray]), NOW)) == ["StopRuns", "StopStrays"]
    foreign = run(1, "stopping", foreign=True)
    assert names(decide(observed_job(deleted, runs=[foreign]), NOW)) == ["ReleaseFinalizer"]
    going = [run(1, "running")]
    let_go = observed_job(deleted, runs=going, lets_runs_go=True)
    assert names(decide(let_go, NOW)) == ["OrphanRuns", "ReleaseFinalizer"]

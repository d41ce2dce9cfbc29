"""Whose a child is: by what nobody but the operator can make, not by what it says."""

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from backend_objects import OWNER, RUN_KEY, request
from builders import KEYS
from kubetune.api import JsonObject
from kubetune.decide.target.refused import start_refused
from kubetune.keys import Keyring
from kubetune.names import ATTEMPT, MARK
from kubetune.names import RUN_KEY as RUN_KEY_LABEL
from kubetune.observe.cache import ObjectCache
from kubetune.targets.errors import CutLooseError
from kubetune.targets.kubernetes.manifests import (
    build_job,
    build_plan_config_map,
    build_service,
    job_name,
)
from kubetune.targets.kubernetes.ownership import (
    has_mark,
    marked,
    pods_of,
    was_made_for,
    why_foreign,
    why_not_adopted,
)
from kubetune.targets.kubernetes.states import run_state
from kubetune.targets.kubernetes.strangers import strangers

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OTHER_KEYS = Keyring((("1", b"b" * 32),))
ELSEWHERE = "team-b"
Change = Callable[[JsonObject], object]


def made(build: Callable[..., JsonObject], keys: Keyring = KEYS, **fields: Any) -> JsonObject:
    """A child as the operator makes it and the API server answers."""
    item = deepcopy(marked(build(request(**fields)), keys))
    item["metadata"] |= {"uid": f"{item['kind']}-uid", "resourceVersion": "7"}
    return item


def changed(item: JsonObject, change: Change) -> JsonObject:
    change(item)
    return item


def owners(*references: JsonObject) -> Change:
    return lambda item: item["metadata"].update(ownerReferences=list(references))


def reference(**fields: Any) -> JsonObject:
    (given,) = build_job(request())["metadata"]["ownerReferences"]
    return given | fields


def named(number: str, workers: str = "") -> Change:
    whole = job_name(OWNER, RUN_KEY, 1)[:-1] + number + workers
    return lambda item: item["metadata"].update(name=whole)


def without_mark(item: JsonObject) -> None:
    item["metadata"]["annotations"].pop(MARK, None)
    del item["spec"]["template"]["metadata"]["annotations"][MARK]


def without_template(item: JsonObject) -> None:
    """As the cache keeps it."""
    del item["spec"]["template"]


def labelled(**labels: str | None) -> Change:
    def change(item: JsonObject) -> None:
        for name, value in labels.items():
            key = {"attempt": ATTEMPT, "run_key": RUN_KEY_LABEL}[name]
            item["metadata"]["labels"][key] = value
            if value is None:
                del item["metadata"]["labels"][key]

    return change


FOREIGN: dict[str, tuple[Change, str]] = {
    "another namespace": (lambda job: job["metadata"].update(namespace=ELSEWHERE), "namespace"),
    "another attempt": (named("9"), "mark"),
    "no attempt": (named("x"), "name"),
    "a negative attempt": (named("-1"), "name"),
    "a huge attempt": (named("999999999999"), "mark"),
    "a number in other digits": (named("\u0663"), "name"),
    "another name": (lambda job: job["metadata"].update(name="another-1"), "name"),
    "no owner": (owners(), "controller"),
    "not controlled": (owners(reference(controller=False)), "controller"),
    "the uid of another": (owners(reference(uid="uid-2")), "controller"),
    "another kind": (owners(reference(kind="Dataset")), "controller"),
    "another API": (owners(reference(apiVersion="v1")), "controller"),
    "two controllers": (owners(reference(), reference(uid="uid-2")), "controller"),
    "twice the same": (owners(reference(), reference()), "controller"),
    "no mark": (without_mark, "mark"),
    "a suspended one without a mark": (
        lambda job: (without_mark(job), job["spec"].update(suspend=True)),
        "mark",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_job_that_only_says_so_is_not_an_attempt(case: str) -> None:
    change, why = FOREIGN[case]
    job = changed(made(build_job), change)
    assert why in why_foreign(job, OWNER, RUN_KEY, KEYS)
    assert case in {"no owner", "not controlled"} or not was_made_for(job, OWNER, RUN_KEY, KEYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda job: None,
        without_template,
        lambda job: job["metadata"]["annotations"].pop(MARK),
        labelled(attempt=None),
        labelled(attempt="x"),
        labelled(attempt="-1"),
        labelled(attempt="999999999999", run_key="another"),
        owners(reference(), reference(uid="uid-2", controller=None)),
    ],
)
def test_an_attempt_is_one_whatever_becomes_of_its_labels(change: Change) -> None:
    job = changed(made(build_job), change)
    assert why_foreign(job, OWNER, RUN_KEY, KEYS) == ""
    assert run_state(job, []).attempt == 2


@pytest.mark.parametrize("controller", [None, False])
def test_a_job_that_was_cut_loose_is_known_by_its_template(controller: bool | None) -> None:
    loose = made(build_job)
    loose["metadata"] |= {"ownerReferences": [], "annotations": {}, "labels": {}}
    if controller is not None:
        loose["metadata"]["ownerReferences"] = [reference(controller=controller)]
    assert was_made_for(loose, OWNER, RUN_KEY, KEYS)
    for change in (without_mark, named("9"), owners(reference(uid="uid-2"))):
        assert not was_made_for(changed(deepcopy(loose), change), OWNER, RUN_KEY, KEYS)


def test_a_mark_counts_with_each_accepted_key() -> None:
    job = made(build_job, OTHER_KEYS)
    assert not has_mark(job, KEYS)
    both = Keyring((*OTHER_KEYS.keys, ("2", b"c" * 32)))
    assert has_mark(job, both)
    assert has_mark(made(build_job, both), Keyring(both.keys[1:]))


def pod(job: JsonObject, **metadata: Any) -> JsonObject:
    told = {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    given: JsonObject = {
        "name": "any",
        "namespace": OWNER.namespace,
        "uid": "pod-uid",
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "controller": True} | told],
        "labels": {RUN_KEY_LABEL: RUN_KEY},
        "resourceVersion": "8",
    }
    status = {"phase": "Running"}
    return {"kind": "Pod", "metadata": given | metadata, "spec": {}, "status": status}


def test_pods_are_those_of_a_job_in_its_namespace() -> None:
    job = made(build_job)
    (controller,) = pod(job)["metadata"]["ownerReferences"]
    assert pods_of(job, [pod(job)]) == [pod(job)]
    for change in (
        {"namespace": ELSEWHERE},
        {"ownerReferences": []},
        {"ownerReferences": [controller | {"controller": False}]},
        {"ownerReferences": [controller | {"name": "another"}]},
        {"ownerReferences": [controller | {"kind": "ReplicaSet"}]},
        {"ownerReferences": [controller, controller]},
    ):
        assert pods_of(job, [pod(job, **change)]) == []


PLAN: dict[str, tuple[Change, str]] = {
    "as it was made": (lambda plan: None, ""),
    "cut loose": (owners(), ""),
    "without its annotations": (lambda plan: plan["metadata"].update(annotations={}), ""),
    "made before": (
        lambda plan: plan["metadata"].update(ownerReferences=[], annotations={}),
        "neither an owner nor",
    ),
    "frozen before": (
        lambda plan: (plan["data"].update(more="1"), marked(plan, KEYS)),
        "",
    ),
    "other content": (lambda plan: plan["data"].update(more="1"), "content"),
    "other content of old": (lambda plan: plan.update(data={"plan.json": "{}"}), "content"),
    "binary content": (lambda plan: plan.update(binaryData={"more": "MQ=="}), "content"),
    "no content": (lambda plan: plan.pop("data"), "content"),
    "changeable": (lambda plan: plan.update(immutable=False), "immutable"),
    "said nothing": (lambda plan: plan.pop("immutable"), "immutable"),
    "somebody else's": (owners(reference(uid="uid-2")), "controller"),
    "an app's": (owners(reference(apiVersion="apps/v1", kind="Deployment")), "controller"),
    "not controlled": (owners(reference(controller=False)), "controller"),
    "two controllers": (owners(reference(), reference(uid="uid-2")), "controller"),
}


@pytest.mark.parametrize("case", PLAN)
def test_a_plan_is_taken_over_only_as_we_made_it(case: str) -> None:
    change, why = PLAN[case]
    wanted = made(build_plan_config_map)
    found = why_not_adopted(changed(deepcopy(wanted), change), wanted, OWNER, KEYS)
    assert (why in found) if why else not found


SERVICE: dict[str, tuple[Change, str]] = {
    "as it was made": (lambda service: None, ""),
    "as it is answered": (lambda service: service["spec"].update(type="ClusterIP"), ""),
    "cut loose": (owners(), ""),
    "made before": (
        lambda service: service["metadata"].update(ownerReferences=[], annotations={}),
        "neither an owner nor",
    ),
    "somebody else's": (owners(reference(uid="uid-2")), "controller"),
    "to other pods": (lambda service: service["spec"].update(selector={"app": "x"}), "elsewhere"),
    "to all pods": (lambda service: service["spec"].pop("selector"), "elsewhere"),
    "with an address": (lambda service: service["spec"].update(clusterIP="10.0.0.1"), "elsewhere"),
    "of another name": (lambda service: service["spec"].update(type="ExternalName"), "elsewhere"),
}


@pytest.mark.parametrize("case", SERVICE)
def test_a_service_is_taken_over_only_as_we_made_it(case: str) -> None:
    change, why = SERVICE[case]
    wanted = made(build_service, workers=2)
    found = why_not_adopted(changed(deepcopy(wanted), change), wanted, OWNER, KEYS)
    assert (why in found) if why else not found


def test_strangers_are_found_and_nothing_else() -> None:
    cache, ours = ObjectCache(), made(build_job)
    before = made(build_job, attempt=1)
    before["metadata"]["uid"] = "before"
    loose = changed(made(build_job, attempt=4), owners())
    loose["metadata"]["uid"] = "loose"
    forged = changed(made(build_job, attempt=9), without_mark)
    forged["metadata"] |= {"uid": "forged", "namespace": ELSEWHERE}
    bare = changed(changed(made(build_job, attempt=8), without_mark), owners())
    bare["metadata"]["uid"] = "bare"
    for number, item in enumerate(
        (
            *(deepcopy(job) for job in (ours, before, loose, forged, bare)),
            pod(ours, name="own", uid="own"),
            pod(ours, name="copied", uid="copied", namespace=ELSEWHERE),
            pod(ours, name="alone", uid="alone", ownerReferences=[]),
            # Whoever hears of its Job needs not hear of it.
            pod(forged, name="of-forged", uid="of-forged", namespace=ELSEWHERE),
        )
    ):
        item["metadata"]["resourceVersion"] = str(number + 1)
        cache.put(item)
    found = strangers(cache, OWNER, RUN_KEY, [ours, before], KEYS)
    assert {item["metadata"]["uid"] for item, _ in found} == {
        "forged",
        "bare",
        "copied",
        "alone",
    }
    assert all(why for _, why in found)
    json.dumps(found)


@pytest.mark.parametrize(("before", "wait"), [(0, 5.0), (1, 10.0)])
def test_a_try_of_an_inspection_that_was_cut_loose_counts_as_lost(before: int, wait: float) -> None:
    status: Any = {"conditions": [], "inspection": {"key": "k", "attempts": before}}
    told: Any
    told, again = start_refused(status, CutLooseError("Job rows-k1-1 was cut loose"), 1, NOW)
    assert again == wait
    assert told["inspection"]["attempts"] == before + 1
    ready = next(item for item in told["conditions"] if item["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "RunLost")
    assert f"tried again in {wait:.0f} s" in ready["message"]


def test_an_attempt_of_a_job_that_was_cut_loose_says_what_is_in_its_way() -> None:
    status: Any = {"conditions": [], "phase": "Queued"}
    told: Any
    told, _ = start_refused(status, CutLooseError("Job tune-k1-1 was cut loose"), 1, NOW)
    ready = next(item for item in told["conditions"] if item["type"] == "Ready")
    assert (ready["reason"], ready["message"]) == (
        "NameTaken",
        "Job tune-k1-1 was cut loose; delete it",
    )

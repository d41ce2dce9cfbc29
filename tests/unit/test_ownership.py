"""Whose a child is when its metadata tells nothing any more, and what an inspection makes of it."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from kubetune.api import API_VERSION, JsonObject
from kubetune.decide.target.refused import start_refused
from kubetune.names import RUN_KEY
from kubetune.targets.errors import CutLooseError
from kubetune.targets.kubernetes.ownership import was_made_for
from kubetune.targets.values import Owner

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = Owner(API_VERSION, "Dataset", "team", "rows", "uid-1")


def child(kind: str, controller: bool | None = None, **fields: Any) -> JsonObject:
    """An object of a run's name, with an owner reference to somebody or none."""
    references = [] if controller is None else [{"uid": "another", "controller": controller}]
    metadata = {"name": "rows-k1-1", "namespace": "team", "ownerReferences": references}
    return {"kind": kind, "metadata": metadata, **fields}


def job(run_key: str = "k1", **fields: Any) -> JsonObject:
    labels = {"metadata": {"labels": {RUN_KEY: run_key}}}
    return child("Job", spec={"template": labels}, **fields)


def plan(content: object, *, immutable: bool | None = True) -> JsonObject:
    return child("ConfigMap", data={"plan.json": json.dumps(content)}, immutable=immutable)


def run_of(uid: str = "uid-1", run_key: str = "k1") -> JsonObject:
    return {"run": {"uid": uid, "runKey": run_key}}


@pytest.mark.parametrize(
    ("item", "ours"),
    [
        (job(), True),
        (job("k2"), False),
        (job(controller=False), True),
        (job(controller=True), False),
        (child("Job", spec={"template": {}}), False),
        (plan(run_of()), True),
        (plan(run_of(uid="uid-2")), False),
        (plan(run_of(run_key="k2")), False),
        (plan(run_of(), immutable=None), False),
        (plan({}), False),
        (plan([]), False),
        (child("ConfigMap", immutable=True), False),
        (child("ConfigMap", immutable=True, data={"plan.json": "{"}), False),
        (child("Service", spec={"selector": {RUN_KEY: "k1"}}), True),
        (child("Service", spec={}), False),
    ],
)
def test_what_was_made_for_a_run_is_known_by_what_nobody_can_change(
    item: JsonObject, ours: bool
) -> None:
    assert was_made_for(item, OWNER, "k1") is ours


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

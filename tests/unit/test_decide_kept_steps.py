"""What the status says of steps that an interruption loses, and of settings that don't act."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from builders import (
    NONE_FINISHED,
    NOW,
    TRACKED,
    attempt,
    condition_of,
    job,
    observed_job,
    run,
    target,
    tried,
)
from kubetune.api import JsonObject
from kubetune.api.run.plan import TAG_ATTEMPT, TAG_PROGRESS
from kubetune.decide.decision import StartRun
from kubetune.decide.fine_tune_job.states import decide
from kubetune.targets.values import RunPhase

CML: JsonObject = {
    "kubernetes": None,
    "cml": {
        "url": "https://cml.example",
        "project": "tuning",
        "apiKeySecretRef": {"name": "cml-key"},
        "runtime": {"kernel": "Python 3.11"},
    },
}
CLAIM: JsonObject = {"checkpoint": {"claimName": "disk"}}


@dataclass
class Place:
    name: str
    spec: JsonObject
    target: JsonObject
    shown: JsonObject | None
    """``status.effective.checkpoint``."""
    kept: str = ""
    """Reason of ``ProgressKept`` where steps are kept."""

    @property
    def loses(self) -> bool:
        return not self.kept


PLACES = [
    Place("a cluster without a claim", {}, {}, None),
    Place(
        "a cluster with a claim",
        CLAIM,
        {},
        {"everySteps": 100, "keep": 2, "claimName": "disk"},
        "KeptOnClaim",
    ),
    Place("CML", {}, CML, {"everySteps": 100, "keep": 2}, "KeptOnTarget"),
    Place("CML with a claim", CLAIM, CML, {"everySteps": 100, "keep": 2}, "KeptOnTarget"),
]
places = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)


def shown_checkpoint(place: Place, told: JsonObject, known: JsonObject | None = None) -> Any:
    """``status.lastCheckpoint`` once attempt 2 runs and tells this."""
    status = tried(attempt(2, "Running"), effective=submitted(place)[0]["effective"])
    if known:
        status["lastCheckpoint"] = known
    tags = {TAG_ATTEMPT: "2", TAG_PROGRESS: json.dumps({"attempt": 2} | told)}
    observed = observed_job(
        job(place.spec, status=status),
        target=target(**place.target),
        runs=[run(2, "running")],
        answers=NONE_FINISHED,
        tracked=replace(TRACKED, tags=TRACKED.tags | tags),
    )
    return (decide(observed, NOW).status or {}).get("lastCheckpoint")


def submitted(place: Place) -> tuple[Any, StartRun]:
    there = target(**place.target)
    decision = decide(observed_job(job(place.spec), target=there, answers=NONE_FINISHED), NOW)
    start = next(action for action in decision.actions if isinstance(action, StartRun))
    return decision.status or {}, start


def interrupted(
    place: Place, attempts: JsonObject, phase: RunPhase | None, step: int = 200, **spec: Any
) -> str:
    """The message of Running once an attempt has got to a step and something happens to it."""
    effective = submitted(place)[0]["effective"]
    status = tried(attempts, effective=effective, progress={"step": step, "updatedAt": "x"})
    # After the first eviction the next attempt follows at once, without a wait that tells.
    status["counts"]["preempted"] = 5
    observed = observed_job(
        job(place.spec | spec, status=status),
        target=target(**place.target),
        runs=[run(1, phase)] if phase else [],
        answers=NONE_FINISHED,
    )
    found = (decide(observed, NOW).status or {})["conditions"]
    return next(item for item in found if item["type"] == "Running")["message"]


@places
def test_settings_that_do_not_act_are_not_shown(place: Place) -> None:
    assert submitted(place)[0]["effective"].get("checkpoint") == place.shown


def test_what_is_shown_changes_neither_plan_nor_lineage() -> None:
    without, start = submitted(PLACES[0])
    claimed, other = submitted(PLACES[1])
    assert without["lineage"] == claimed["lineage"]
    plans = (
        start.request.plan["training"]["checkpoint"],
        other.request.plan["training"]["checkpoint"],
    )
    assert [plan["everySteps"] for plan in plans] == [100, 100]
    assert (start.request.checkpoint_claim, other.request.checkpoint_claim) == (None, "disk")


@pytest.mark.parametrize("phase", ["pending", "running"])
@places
def test_it_is_said_before_it_happens(place: Place, phase: RunPhase) -> None:
    status = tried(attempt(1, "Running"), effective=submitted(place)[0]["effective"])
    around: JsonObject = {"target": target(**place.target), "runs": [run(1, phase)]}
    found = decide(observed_job(job(place.spec, status=status), **around), NOW).status or {}
    assert condition_of(found, "ProgressKept") == (
        ("False", "NoDurableClaim") if place.loses else ("True", place.kept)
    )
    again = decide(observed_job(job(place.spec, status=found), **around), NOW).status
    assert again == found, "nothing more is written for it"


@pytest.mark.parametrize(
    ("attempts", "phase", "spec"),
    [
        (attempt(1, "Running"), "running", {"suspend": True}),
        (attempt(1, "Running"), "stopping", {"suspend": True}),
        (attempt(1, "Stopped"), None, {"suspend": True}),
        (attempt(1, "Running"), "preempted", {}),
        (attempt(1, "Running"), "failed", {}),
    ],
    ids=["suspended", "stopping", "stopped", "evicted", "failed"],
)
@places
def test_an_interruption_says_what_it_costs(
    place: Place, attempts: JsonObject, phase: RunPhase | None, spec: JsonObject
) -> None:
    said = interrupted(place, attempts, phase, **spec)
    assert ("the run's 200 steps are lost: a job with spec.checkpoint" in said) == place.loses
    assert "lost" not in interrupted(place, attempts, phase, step=0, **spec), "nothing was made"


WRITTEN: JsonObject = {"checkpoint_step": 40, "checkpoint_time": 1767268800.5}
"""Midday of 2026-01-01."""
SHOWN: JsonObject = {"step": 40, "time": "2026-01-01T12:00:00Z", "attempt": 2}


@places
def test_the_newest_checkpoint_is_shown_where_it_outlives_the_run(place: Place) -> None:
    assert shown_checkpoint(place, WRITTEN) == (None if place.loses else SHOWN)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({}, SHOWN | {"attempt": 1}),
        (WRITTEN, SHOWN | {"attempt": 1}),
        (WRITTEN | {"checkpoint_step": 60}, SHOWN | {"step": 60}),
        ({"checkpoint_step": 0, "checkpoint_time": 1767268800.5}, None),
    ],
    ids=["nothing told yet", "continued from it", "a newer one", "it was not found"],
)
def test_the_checkpoint_of_an_earlier_attempt_stays_its_own(
    told: JsonObject, shown: JsonObject | None
) -> None:
    assert shown_checkpoint(PLACES[1], told, SHOWN | {"attempt": 1}) == shown


@pytest.mark.parametrize("value", [-1, 1e300, float("nan"), float("inf"), "40", True, [], 2**80])
@pytest.mark.parametrize("key", ["checkpoint_step", "checkpoint_time"])
def test_what_a_run_tells_of_checkpoints_is_no_more_than_that(key: str, value: Any) -> None:
    assert shown_checkpoint(PLACES[1], WRITTEN | {key: value}) is None

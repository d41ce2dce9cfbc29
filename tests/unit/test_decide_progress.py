"""Progress is what the newest attempt says of one step, and at the end what the run has done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    NONE_FINISHED,
    NOW,
    REFUSED,
    TRACKED,
    TRAINED,
    ago,
    attempt,
    job,
    observed_job,
    run,
    told,
    tried,
)
from kubetune.api import JsonObject
from kubetune.decide.fine_tune_job.progress import progress, told_progress
from kubetune.decide.fine_tune_job.states import decide
from kubetune.targets.values import RunState
from kubetune.tracking.base import TrackedRun

CLAIM: JsonObject = {"checkpoint": {"claimName": "disk"}}
PROGRESS: JsonObject = {
    "stage": "training",
    "step": 200,
    "totalSteps": 400,
    "percent": 50,
    "epoch": 1.5,
    "loss": "0.2",
    "learningRate": "0.001",
    "etaSeconds": 20,
    "eta": "20s",
    "updatedAt": ago(60),
}


def tracked(tags: JsonObject, **metrics: float) -> TrackedRun:
    return replace(TRACKED, tags=TRACKED.tags | tags, metrics=metrics)


def test_after_a_step_back_nothing_of_the_higher_step_is_shown() -> None:
    """The server's newest metrics are those of the highest step, of an earlier attempt."""
    tags = told(2, kubetune_step=136, loss=0.9, epoch=0.7)
    shown = progress(tracked(tags, kubetune_step=200, loss=0.2, epoch=1.5, eval_loss=0.3), NOW)
    assert {key: shown.get(key) for key in ("step", "percent", "loss", "epoch", "evalLoss")} == {
        "step": 136,
        "percent": 68,
        "loss": "0.9",
        "epoch": 0.7,
        "evalLoss": None,
    }


@pytest.mark.parametrize(
    "tags",
    [
        {},
        told(1, kubetune_step=200) | {"kubetune.attempt": "2"},
        {"kubetune.attempt": "2", "kubetune.progress": "soon"},
        {"kubetune.attempt": "2", "kubetune.progress": "[200]"},
        {"kubetune.attempt": "2", "kubetune.progress": '{"kubetune_step": 200}'},
        told(2) | {"kubetune.progress": '{"attempt": 2, "kubetune_step": "200"}'},
    ],
    ids=["nothing", "earlier attempt", "no JSON", "no object", "no attempt", "no number"],
)
def test_what_does_not_tell_of_the_attempt_is_not_shown(tags: dict[str, str]) -> None:
    run_ = replace(TRACKED, tags={"kubetune.phase": "preparing", **tags}, metrics={"loss": 0.2})
    assert "kubetune_step" not in told_progress(run_)
    shown = progress(run_, NOW)
    assert shown.pop("attempt", 2) == 2
    assert shown == {"stage": "preparing", "updatedAt": ago(0)}


STAGE: JsonObject = {
    "stage": "tokenizing",
    "percent": 8,
    "done": 250_000,
    "total": 1_000_000,
    "unit": "rows",
    "stage_eta_seconds": 180.4,
}


def test_a_stage_is_shown_with_what_is_done_of_it_and_its_end() -> None:
    tags = told(1, **STAGE, kubetune_eta_seconds=9)
    assert progress(tracked(tags | {"kubetune.phase": "preparing"}), NOW) == {
        "attempt": 1,
        "stage": "tokenizing",
        "totalSteps": 200,
        "percent": 8,
        "done": 250_000,
        "total": 1_000_000,
        "unit": "rows",
        "etaSeconds": 180,
        "eta": "3m0s",
        "updatedAt": ago(0),
    }


@pytest.mark.parametrize(
    ("lies", "missing"),
    [
        ({"stage": "resting"}, {"done", "unit", "total"}),
        ({"stage": ["training"]}, {"done", "unit", "total"}),
        ({"unit": "<b>rows</b>"}, {"done", "unit", "total"}),
        ({"unit": {}}, {"done", "unit", "total"}),
        ({"done": -1}, {"done", "unit", "total"}),
        ({"done": "many"}, {"done", "unit", "total"}),
        ({"done": 1e300}, {"done", "unit", "total"}),
        ({"total": 3}, {"total"}),
        ({"total": float("nan")}, {"total"}),
        ({"stage_eta_seconds": float("inf")}, {"eta", "etaSeconds"}),
        ({"stage_eta_seconds": -4}, {"eta", "etaSeconds"}),
        ({"stage_eta_seconds": 1e17}, {"eta", "etaSeconds"}),
        ({"percent": 100}, {"percent"}),
        ({"percent": -3}, {"percent"}),
        ({"percent": 1e400}, {"percent"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_can_not_be_is_left_out(lies: JsonObject, missing: set[str]) -> None:
    whole = progress(tracked(told(1, **STAGE)), NOW)
    shown = progress(tracked(told(1, **STAGE | lies)), NOW)
    left = set(whole) - set(shown)
    assert missing - left <= ({"eta", "etaSeconds"} if "stage" in lies else set())
    assert left <= missing | {"eta", "etaSeconds"}


def test_a_phase_of_any_length_is_shown_in_part() -> None:
    shown = progress(replace(TRACKED, tags={"kubetune.phase": "x" * 5000}), NOW)
    assert len(shown.get("stage", "")) <= 64


def test_percent_does_not_go_back_within_an_attempt() -> None:
    def shown(number: int, percent: int, before: JsonObject) -> JsonObject:
        status = tried(attempt(number, "Running"), phase="Running", **before)
        seen = replace(tracked(told(number, **STAGE | {"percent": percent})), updated_ms=1 << 50)
        given = observed_job(job(status=status), runs=[run(number, "running")], tracked=seen)
        found: Any = (decide(given, NOW).status or {})["progress"]
        return {"progress": found | {"updatedAt": ago(60)}}

    first = shown(1, 40, {})
    assert shown(1, 12, first)["progress"]["percent"] == 40
    assert shown(1, 55, first)["progress"]["percent"] == 55
    assert shown(2, 12, first)["progress"]["percent"] == 12, "another attempt begins anew"


def test_a_loss_that_is_no_number_and_no_end_in_sight_can_be_shown() -> None:
    tags = told(1, kubetune_step=3, loss=float("nan"), kubetune_eta_seconds=float("inf"))
    shown = progress(tracked(tags), NOW)
    assert (shown["step"], shown["loss"], "eta" in shown) == (3, "nan", False)


def resumed(spec: JsonObject, runs: list[RunState], seen: TrackedRun | None) -> Any:
    """The status of a job whose first attempt was stopped at step 200."""
    status = tried(attempt(1, "Stopped"), phase="Suspended", progress=PROGRESS)
    around: JsonObject = {"runs": runs, "tracked": seen, "answers": NONE_FINISHED}
    return decide(observed_job(job(spec, status=status), **around), NOW).status or {}


@pytest.mark.parametrize("spec", [{}, CLAIM], ids=["without a claim", "with a claim"])
def test_a_new_attempt_begins_with_the_steps_that_it_finds(spec: JsonObject) -> None:
    shown = resumed(spec, [], None).get("progress")
    assert shown and shown["step"] == 200 if spec else shown is None


def test_an_attempt_that_has_not_reported_is_not_shown_as_the_last_one() -> None:
    before = tracked(told(1, kubetune_step=210, loss=0.1))
    assert resumed({}, [run(2, "running")], before)["progress"]["step"] == 200, "nothing is news"
    opened = tracked(told(1, kubetune_step=210, loss=0.1) | {"kubetune.attempt": "2"})
    assert "step" not in resumed({}, [run(2, "running")], opened)["progress"]


@pytest.mark.parametrize("seen", [None, PROGRESS], ids=["never polled", "polled before its end"])
def test_a_short_run_ends_with_what_its_last_step_was(seen: JsonObject | None) -> None:
    summary = TRAINED.summary | {"steps": 120, "loss": 0.125, "epoch": 3.0, "learningRate": 0.0}
    ended = TRAINED.model_copy(update={"summary": summary})
    status = tried(attempt(1, "Running")) | ({"progress": seen} if seen else {})
    around: JsonObject = {"runs": [run(1, "succeeded", ended)], "answers": NONE_FINISHED}
    after = decide(observed_job(job(status=status), **around), NOW).status or {}
    assert after["phase"] == "Succeeded"
    shown = after["progress"]
    del shown["updatedAt"], shown["totalSteps"]
    assert shown == {
        "step": 120, "percent": 100, "loss": "0.125", "epoch": 3.0, "evalLoss": "0.5",
        "learningRate": "0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "spec", "runs"),
    [
        ("Running", {}, [run(1, "running")]),
        ("Queued", {}, [run(1, "pending")]),
        ("Queued", {}, [run(1, "preempted")]),
        ("Stopping", {}, [run(1, "stopping")]),
        ("Stopping", {"suspend": True}, [run(1, "running")]),
        ("Suspended", {"suspend": True}, []),
        ("Succeeded", {}, [run(1, "succeeded", TRAINED)]),
        ("Failed", {}, [run(1, "failed", REFUSED)]),
    ],
)
def test_time_left_is_shown_while_the_job_runs(
    phase: str, spec: JsonObject, runs: list[RunState]
) -> None:
    status = tried(attempt(1, "Running"), progress=PROGRESS)
    around: JsonObject = {"runs": runs, "answers": NONE_FINISHED}
    after = decide(observed_job(job(CLAIM | spec, status=status), **around), NOW).status or {}
    assert after["phase"] == phase
    shown = after["progress"]
    assert ("eta" in shown, "etaSeconds" in shown) == (phase == "Running", phase == "Running")
    assert shown["step"] == 200

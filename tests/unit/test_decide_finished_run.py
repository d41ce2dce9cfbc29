"""Before a run is repeated: whether the tracking server has it finished, with what is wanted."""

from dataclasses import replace
from typing import Any

import pytest
from builders import NOW, TRACKED, attempt, condition, job, names, observed_job, tried
from kubetune.decide.decision import Decision
from kubetune.decide.fine_tune_job.observed import TrackerAnswers
from kubetune.decide.fine_tune_job.states import decide
from kubetune.tracking.base import TrackedRun

DONE = {"kubetune.phase": "succeeded"}
MODEL = {"kubetune.model_id": "m-1"}
MERGED = {"kubetune.merged_model_id": "m-2"}
LOST = tried(attempt(1, "Running"))
REGISTRY = {"output": {"registry": {}}}


def tracked(status: str, **tags: str) -> TrackedRun:
    return replace(TRACKED, status=status, tags=tags)


def decided(run: TrackedRun | None, spec: Any = None, status: Any = LOST) -> Decision[Any]:
    given = job({"backoffLimit": 0} | (spec or {}), status=status)
    observed = observed_job(given, answers=TrackerAnswers(run=run, run_sought=True), fresh=False)
    return decide(observed, NOW)


@pytest.mark.parametrize(
    ("run", "spec", "phase"),
    [
        (tracked("FINISHED", **DONE, **MODEL), {}, "Succeeded"),
        (tracked("FINISHED", **DONE, **MODEL), REGISTRY, "Registering"),
        (tracked("RUNNING", **MODEL, **DONE), {}, "Succeeded"),
        # Whose own word for it is missing, or was said by somebody else.
        (tracked("FINISHED", **MODEL), {}, "Failed"),
        (tracked("FINISHED"), {}, "Failed"),
        (tracked("FINISHED", **DONE), {}, "Succeeded"),
        (tracked("FINISHED", **DONE), REGISTRY, "Failed"),
        (tracked("RUNNING", **MODEL), {}, "Failed"),
        (tracked("KILLED", **MODEL), {}, "Failed"),
        (tracked("FAILED", **MODEL), {}, "Failed"),
        (None, {}, "Failed"),
        (
            tracked("FINISHED", **DONE, **MODEL),
            {"output": {"registry": {}, "merge": True}},
            "Failed",
        ),
        (
            tracked("FINISHED", **DONE, **MODEL, **MERGED),
            {"output": {"registry": {}, "merge": True}},
            "Registering",
        ),
    ],
)
def test_a_lost_run_is_over_when_it_has_left_what_is_wanted(
    run: TrackedRun | None, spec: dict[str, Any], phase: str
) -> None:
    decision = decided(run, spec)
    status = decision.status or {}
    assert status["phase"] == phase
    ended_well = phase != "Failed"
    assert status["attempts"][-1]["result"] == ("Succeeded" if ended_well else "Failed")
    assert status["counts"]["failed"] == (0 if ended_well else 1)
    assert "StartRun" not in names(decision)


@pytest.mark.parametrize("result", ["Failed", "Preempted", "Stopped"])
def test_nothing_is_repeated_that_has_finished(result: str) -> None:
    status = tried(attempt(1, result, endTime="2026-01-02T00:00:00Z"))
    decision = decided(tracked("FINISHED", **DONE, **MODEL), {"backoffLimit": 5}, status)
    assert (decision.status or {})["phase"] == "Succeeded"
    assert (decision.status or {})["counts"] == {"total": 1, "failed": 0, "preempted": 0}
    assert "StartRun" in names(decided(None, {"backoffLimit": 5}, status))


def test_a_job_of_a_backup_is_asked_for_before_its_first_run() -> None:
    restored = observed_job(fresh=False, recorded=False)
    decision = decide(restored, NOW)
    assert names(decision) == ["Stamp", "FindRun"]
    done = decided(tracked("FINISHED", **DONE, **MODEL), status={})
    assert (done.status or {})["phase"] == "Succeeded"
    assert "StartRun" in names(decided(None, status={}))


def test_a_first_run_that_was_refused_is_not_asked_for_again() -> None:
    refused = {"conditions": [condition("Submitted", "False")], "phase": "Pending"}
    assert names(decide(observed_job(job(status=refused), fresh=False), NOW)) == ["StartRun"]

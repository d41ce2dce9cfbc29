"""The ends of a FineTuneJob: deletion, and nothing after success or failure."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import (
    CRASHED,
    NOW,
    ago,
    attempt,
    condition,
    job,
    model,
    names,
    observed_job,
    run,
    tried,
)
from kubetune.api import JsonObject
from kubetune.decide.decision import OrphanRuns, ReleaseFinalizer, StopRuns
from kubetune.decide.fine_tune_job.states import decide

RUNNING = tried(attempt(1, "Running"))


@pytest.mark.parametrize(
    ("policy", "phase", "actions"),
    [
        ("Delete", None, [ReleaseFinalizer]),
        ("Delete", "running", [StopRuns]),
        ("Delete", "stopping", [StopRuns]),
        ("Delete", "failed", [ReleaseFinalizer]),
        ("Orphan", None, [ReleaseFinalizer]),
        ("Orphan", "running", [OrphanRuns, ReleaseFinalizer]),
        ("Orphan", "succeeded", [ReleaseFinalizer]),
    ],
)
def test_deletion(policy: str, phase: Any, actions: list[type]) -> None:
    """1: the finalizer goes only when nothing of ours runs any more."""
    deleted = job({"deletionPolicy": policy}, status=RUNNING, deleting=True)
    runs = [run(1, phase)] if phase else []
    decision = decide(observed_job(deleted, runs=runs), NOW)
    assert [type(action) for action in decision.actions] == actions
    if actions == [StopRuns]:
        assert (decision.status or {})["phase"] == "Stopping"


def test_deletion_without_our_finalizer_is_not_ours() -> None:
    observed = observed_job(job(deleting=True), runs=[run(1, "running")])
    observed = replace(observed, job=replace(observed.job, finalizers=()))
    assert decide(observed, NOW).actions == ()


TERMINAL = [
    tried(attempt(1, "Succeeded"), phase="Succeeded", completionTime=ago(60)),
    tried(attempt(1, "Failed"), phase="Failed", completionTime=ago(60)),
]


@pytest.mark.parametrize("status", TERMINAL, ids=lambda status: status["phase"])
class TestOver:
    """2: a finished job is finished."""

    def test_child_deleted(self, status: JsonObject) -> None:
        decision = decide(observed_job(job(status=status), runs=[]), NOW)
        assert (decision.actions, decision.status, decision.requeue_after) == ((), None, None)

    def test_deleted_while_a_run_still_shows(self, status: JsonObject) -> None:
        """It is stopped all the same, and the verdict stays."""
        deleted = job(status=status, deleting=True)
        decision = decide(observed_job(deleted, runs=[run(1, "running")]), NOW)
        assert [type(action) for action in decision.actions] == [StopRuns]
        assert (decision.status or {})["phase"] == status["phase"]

    def test_operator_restarted(self, status: JsonObject) -> None:
        observed = observed_job(job(status=status), runs=[run(1, "failed", CRASHED)])
        assert decide(observed, NOW + timedelta(days=1)).actions == ()

    def test_inputs_gone(self, status: JsonObject) -> None:
        observed = observed_job(job(status=status), model=None, dataset=None)
        assert decide(observed, NOW).actions == ()

    @pytest.mark.parametrize(
        "edit", [{"suspend": True}, {"activeDeadlineSeconds": 1}, {"deletionPolicy": "Orphan"}]
    )
    def test_spec_edited(self, status: JsonObject, edit: JsonObject) -> None:
        decision = decide(observed_job(job(edit, status=status, generation=2)), NOW)
        assert decision.actions == ()
        assert decision.status == status | {"observedGeneration": 2}

    def test_run_that_is_left_is_stopped_once(self, status: JsonObject) -> None:
        observed = observed_job(job(status=status), runs=[run(1, "running")])
        assert names(decide(observed, NOW)) == ["StopRuns"]
        observed = observed_job(job(status=status), runs=[run(1, "stopping")])
        assert decide(observed, NOW).actions == ()

    def test_time_to_live(self, status: JsonObject) -> None:
        def after(seconds: int) -> tuple[list[str], float | None]:
            spec = {"ttlSecondsAfterFinished": seconds}
            decision = decide(observed_job(job(spec, status=status)), NOW)
            return names(decision), decision.requeue_after

        assert after(100) == ([], 40)
        assert after(60) == (["DeleteSelf"], None)
        assert after(0) == (["DeleteSelf"], None)


@pytest.mark.parametrize(
    ("conditions", "deleted"),
    [
        ([], False),
        ([condition("Ready", "False"), condition("Reconciling")], False),
        ([condition("Ready")], True),
        ([condition("Ready", "False"), condition("Stalled")], True),
        (None, True),
    ],
)
def test_the_time_to_live_waits_for_the_output(
    conditions: list[JsonObject] | None, deleted: bool
) -> None:
    made = {"result": {"modelRef": {"name": "out"}}, "completionTime": ago(60)}
    status = tried(attempt(1, "Succeeded"), phase="Succeeded", **made)
    given = job({"ttlSecondsAfterFinished": 0}, status=status)
    seen = {"observedGeneration": 1, "conditions": conditions}
    output = None if conditions is None else model(name="out", status=seen)
    decision = decide(observed_job(given, output=output), NOW)
    assert names(decision) == (["DeleteSelf"] if deleted else [])

"""What an inspection in CML needs beside itself: record and finalizer, and when they go."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import NOW, dataset, facts, names, run, target
from kubetune.api import JsonObject
from kubetune.api.run.outcome import Outcome
from kubetune.decide.decision import Decision, DeleteRuns, Record, Stamp, StartRun
from kubetune.decide.inspected.dataset import ObservedDataset, decide
from kubetune.decide.resources import TargetProblem
from kubetune.decide.target.place import place_of, record
from kubetune.names import ABANDON_RUNS, FINALIZER

IN_CML = target(
    True,
    kubernetes=None,
    cml={
        "url": "https://cml.example",
        "project": "tuning",
        "apiKeySecretRef": {"name": "key"},
        "runtime": {"kernel": "Python 3.11"},
    },
)
AWAY = TargetProblem("TargetUnreachable", "https://cml.example: no answer")


def started() -> Any:
    """status.inspection once a run was started in CML."""
    observed = ObservedDataset(dataset=dataset(), facts=facts(target=IN_CML))
    return (decide(observed, NOW).status or {})["inspection"]


def going_on(around: JsonObject | None = None, **fields: Any) -> Decision[Any]:
    state = started()
    given = dataset(status={"inspection": state}, finalizers=(FINALIZER,), **fields)
    place = place_of(state["external"], IN_CML.spec)
    observed = facts(**{"target": IN_CML, "started": place} | (around or {}))
    return decide(ObservedDataset(dataset=given, facts=observed), NOW)


def test_record_and_finalizer_come_before_the_run() -> None:
    decision = decide(ObservedDataset(dataset=dataset(), facts=facts(target=IN_CML)), NOW)
    state = (decision.status or {})["inspection"]
    assert state["external"] == record(IN_CML, "team")
    assert decision.actions[:2] == (Stamp(finalizer=True), Record("inspection", state))
    assert isinstance(decision.actions[2], StartRun)


def test_one_in_the_cluster_needs_neither() -> None:
    decision = decide(ObservedDataset(dataset=dataset(), facts=facts()), NOW)
    assert [type(action) for action in decision.actions] == [StartRun]


def test_one_that_began_elsewhere_leaves_nothing_there() -> None:
    decision = going_on({"target": target(), "target_problem": AWAY})
    left, start = decision.actions
    assert isinstance(left, DeleteRuns)
    assert left.elsewhere
    assert left.elsewhere.cml
    assert isinstance(start, StartRun)
    assert (decision.status or {})["inspection"]["external"]["type"] == "kubernetes"


@pytest.mark.parametrize("phase", ["pending", "running", "stopping", "succeeded"])
def test_nothing_runs_beside_one_that_began_elsewhere(phase: Any) -> None:
    decision = going_on({"target": target(), "runs": [run(1, phase)]})
    assert names(decision) == ["DeleteRuns"]
    state = (decision.status or {})["inspection"]
    assert state["external"]["type"] == "cml", "there it is looked for until it is gone"
    assert decision.requeue_after
    assert "StartRun" in names(going_on({"target": target(), "runs": []}))


@pytest.mark.parametrize(
    ("actions", "around", "fields"),
    [
        (["DeleteRuns", "ReleaseFinalizer"], {}, {}),
        ([], {"target_problem": AWAY}, {}),
        (
            ["AbandonRuns", "ReleaseFinalizer"],
            {"target_problem": AWAY},
            {"annotations": {ABANDON_RUNS: "true"}},
        ),
        (
            ["AbandonRuns", "ReleaseFinalizer"],
            {"target_problem": AWAY},
            {"deleted": NOW - timedelta(seconds=31)},
        ),
        (["ReleaseFinalizer"], {"started": None}, {}),
    ],
)
def test_deletion(actions: list[str], around: JsonObject, fields: JsonObject) -> None:
    assert names(going_on(around, deleting=True, **{"deleted": NOW} | fields)) == actions


def test_a_finalizer_that_somebody_removed_comes_back() -> None:
    decision = going_on({"runs": [run(1, "running")]})
    assert names(decision) == []
    state = started()
    place = place_of(state["external"], IN_CML.spec)
    around = facts(target=IN_CML, started=place, runs=[run(1, "running")])
    bare = dataset(status={"inspection": state})
    assert names(decide(ObservedDataset(dataset=bare, facts=around), NOW)) == ["Stamp"]


def test_the_finalizer_goes_when_the_inspection_has_ended() -> None:
    state = {key: value for key, value in started().items() if key != "external"}
    found = {"result": "refused", "reason": "NoFiles", "message": "there are none"}
    given = dataset(status={"inspection": state | found}, finalizers=(FINALIZER,))
    observed = ObservedDataset(dataset=given, facts=facts(target=IN_CML))
    assert names(decide(observed, NOW)) == ["ReleaseFinalizer"]
    bare = replace(observed, dataset=replace(given, finalizers=()))
    assert names(decide(bare, NOW)) == []


def test_what_was_found_is_written_before_the_finalizer_goes() -> None:
    refused = Outcome(status="failed", reason="NoFiles", message="there are none")
    decision = going_on({"runs": [run(1, "failed", refused)]})
    assert names(decision) == ["DeleteRuns"]
    assert decision.requeue_after == 0
    assert "external" not in (decision.status or {})["inspection"]

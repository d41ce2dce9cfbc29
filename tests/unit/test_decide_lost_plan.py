"""A run that waits for a plan which somebody has deleted."""

from typing import Any

import pytest
from builders import (
    DATASET_FOUND,
    NOW,
    attempt,
    condition_of,
    dataset,
    job,
    model,
    names,
    observed_job,
    ready,
    run,
    target,
    tried,
)
from evaluation_objects import candidate, decided, evaluation, not_found, observed
from kubetune.decide.decision import Decision, StartRun
from kubetune.decide.fine_tune_job.states import decide

LACKING = run(
    1, "pending", reason="PlanMissing", message="ConfigMap a was deleted", lacks_plan=True
)
FIRST = decide(observed_job(), NOW).status or {}


def again(**around: Any) -> Decision[Any]:
    status = tried(attempt(1, "Running")) | {
        key: FIRST[key] for key in ("lineage", "effective", "external")
    }
    return decide(observed_job(job(status=status), runs=[LACKING], **around), NOW)


def message(decision: Decision[Any]) -> str:
    found = (decision.status or {})["conditions"]
    return next(item["message"] for item in found if item["type"] == "Ready")


def test_the_same_plan_is_made_for_the_same_attempt() -> None:
    decision = again()
    start = next(action for action in decision.actions if isinstance(action, StartRun))
    assert start.request.attempt == 1
    assert condition_of(decision.status, "Ready") == ("False", "PlanMissing")
    assert "is made again" in message(decision)


def test_another_plan_is_not_made() -> None:
    changed = ready(dataset(), **(DATASET_FOUND | {"digest": "sha256:new"}))
    decision = again(dataset=changed)
    assert "StartRun" not in names(decision)
    assert "datasetDigest changed" in message(decision)
    decision = again(model=model())
    assert "StartRun" not in names(decision)
    assert "can't be made again" in message(decision)


IN_CML = {
    "url": "https://cml.example",
    "project": "tuning",
    "apiKeySecretRef": {"name": "key"},
    "runtime": {"kernel": "Python 3.11"},
}
MOVED = [
    {"kubernetes": None, "cml": IN_CML},
    {"tracking": {"uri": "http://another:5000"}},
    {"tracking": {"uri": "http://mlflow:5000", "experiment": "another"}},
]


@pytest.mark.parametrize("present", MOVED, ids=["to CML", "another server", "experiment"])
def test_no_plan_of_another_place_is_made(present: dict[str, Any]) -> None:
    """A second run would start there, or report where nobody looks."""
    began, now = target().spec, target(True, **present)
    decision = again(started=began, target=now)
    assert "StartRun" not in names(decision)
    assert "leads elsewhere by now" in message(decision)
    assert "StartRun" in names(again(started=began, target=target()))

    status = decided(not_found(observed(evaluation("base")))).status
    submitted = evaluation("base", status=status)
    there = observed(submitted, runs={"base": [LACKING]}, started=began, target=now)
    decision = decided(there)
    assert "StartRun" not in names(decision)
    assert "leads elsewhere by now" in candidate(decision.status, "base")["message"]


def test_a_candidates_plan_is_made_again() -> None:
    submitted = not_found(observed(evaluation("base")))
    status = decided(submitted).status
    decision = decided(observed(evaluation("base", status=status), runs={"base": [LACKING]}))
    (start,) = [action for action in decision.actions if isinstance(action, StartRun)]
    assert start.request.attempt == 1
    assert "is made again" in candidate(decision.status, "base")["message"]

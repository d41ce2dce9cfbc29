"""The life of an inspection, seen through a Dataset: tries, refusal, twins and clean-up."""

from datetime import timedelta
from typing import Any

import pytest
from builders import (
    DATASET_FOUND,
    KEYS,
    NOW,
    assert_fits,
    dataset,
    facts,
    names,
    ready_reason,
    resource,
    run,
)
from hypothesis import given
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.run.outcome import Outcome
from kubetune.decide.consent import Lacking
from kubetune.decide.decision import Decision, DeleteRuns, StartRun
from kubetune.decide.inspected.dataset import ObservedDataset, decide, inspection_of
from kubetune.decide.inspected.inspection import inspection_key, inspection_run_key
from kubetune.decide.retries import after_inspection
from kubetune.targets.values import RunState

FOUND = Outcome(status="succeeded", reason="Inspected", summary=DATASET_FOUND)
BAD = Outcome(status="failed", reason="RowShape", message="row 3: no answer")
AWAY = Outcome(status="failed", reason="HubUnreachable", message="no answer", retryable=True)
OTHER: JsonObject = {"format": "text"}


def step(
    status: JsonObject | None = None,
    runs: list[RunState] | None = None,
    spec: JsonObject | None = None,
    seconds: float = 0,
    generation: int = 1,
    **given: Any,
) -> Decision[Any]:
    resource = dataset(spec, status=status or {}, generation=generation)
    observed = ObservedDataset(resource, facts(runs=runs or (), **given))
    return decide(observed, NOW + timedelta(seconds=seconds))


def status_of(decision: Decision[Any]) -> JsonObject:
    assert decision.status is not None
    return decision.status


def key_of(spec: JsonObject | None = None) -> str:
    return inspection_key(*inspection_of(ObservedDataset(dataset(spec), facts())))


def test_retry_waits_and_then_starts_the_next_attempt() -> None:
    failed = step(runs=[run(1, "failed", AWAY)])
    assert ready_reason(failed) == ("False", "HubUnreachable")
    assert failed.actions == (), "its log can be read until the next try"
    assert failed.requeue_after == 5
    waiting = step(status_of(failed), seconds=2)
    assert ready_reason(waiting) == ("False", "InspectionRetrying")
    assert (waiting.actions, waiting.requeue_after) == ((), 3)
    again = step(status_of(waiting), seconds=5)
    start = again.actions[0]
    assert isinstance(start, StartRun)
    assert start.request.attempt == 2


def test_a_failed_try_goes_before_the_next_one_starts() -> None:
    left = [run(1, "failed", AWAY)]
    failed = step(runs=left)
    assert step(status_of(failed), runs=left, seconds=2).actions == ()
    due = step(status_of(failed), runs=left, seconds=5)
    assert (names(due), due.requeue_after) == (["DeleteRuns"], 5)
    assert names(step(status_of(due), seconds=6)) == ["StartRun"]
    stuck = step(status_of(failed), runs=left, seconds=66)
    assert names(stuck) == ["StartRun"], "what can't be deleted holds nothing up for long"


def test_the_run_of_a_refusal_stays_for_an_hour() -> None:
    left = [run(1, "failed", BAD)]
    refused = step(runs=left)
    assert (refused.actions, refused.requeue_after) == ((), 3600)
    later = step(status_of(refused), runs=left, seconds=3000)
    assert (later.status, later.actions, later.requeue_after) == (refused.status, (), 600)
    over = step(status_of(refused), runs=left, seconds=3601)
    assert (names(over), over.requeue_after) == (["DeleteRuns"], None)


def test_the_end_of_the_log_is_in_the_status() -> None:
    told = AWAY.model_copy(update={"log": "Traceback\nOSError: no answer"})
    state = status_of(step(runs=[run(1, "failed", told)]))["inspection"]
    assert state["log"] == "Traceback\nOSError: no answer"
    killed = run(1, "failed", exit_code=137, reason="OutOfMemory", log="loading")
    assert status_of(step(runs=[killed]))["inspection"]["log"] == "loading"
    again = step({"inspection": state}, seconds=5)
    assert (
        status_of(step(status_of(again), runs=[run(2, "succeeded", FOUND)]))["inspection"].get(
            "log"
        )
        is None
    )


def test_pause_between_tries_grows_to_five_minutes() -> None:
    assert [after_inspection(n) for n in range(1, 9)] == [5, 10, 20, 40, 80, 160, 300, 300]


def test_run_that_left_nothing_is_tried_again() -> None:
    decision = step(runs=[run(1, "failed", exit_code=137, reason="OutOfMemory")])
    assert ready_reason(decision) == ("False", "OutOfMemory")
    message = status_of(decision)["inspection"]["message"]
    assert message.startswith("the inspection ended with exit code 137 and left no result")


def test_refusal_sticks_until_the_spec_changes() -> None:
    refused = step(runs=[run(1, "failed", BAD)])
    for seconds in (1, 3600, 86400):
        later = step(status_of(refused), seconds=seconds)
        assert later.status == refused.status
        assert later.actions == ()
    edited = step(status_of(refused), spec=OTHER, generation=2)
    assert ready_reason(edited) == ("False", "Inspecting")
    assert names(edited) == ["DeleteRuns", "StartRun"]


def test_operator_restart_repeats_nothing() -> None:
    found = step(runs=[run(1, "succeeded", FOUND)])
    again = step(status_of(found), seconds=3600)
    assert (again.status, again.actions) == (found.status, ())


def test_clean_up_is_repeated_until_the_run_is_gone() -> None:
    runs = [run(1, "succeeded", FOUND)]
    found = step(runs=runs)
    assert names(step(status_of(found), runs=runs)) == ["DeleteRuns"]


def test_new_spec_deletes_what_the_old_one_started() -> None:
    started = step()
    owner = dataset().owner
    edited = step(status_of(started), spec=OTHER, generation=2)
    assert edited.actions[0] == DeleteRuns(inspection_run_key(KEYS, owner, key_of()))
    start = edited.actions[1]
    assert isinstance(start, StartRun)
    assert start.request.run_key == inspection_run_key(KEYS, owner, key_of(OTHER))


@pytest.mark.parametrize(
    ("spec", "given"),
    [
        (OTHER, {"lacking": Lacking(Reason.SECRET_MISSING, "waiting for Secret hub")}),
        (
            OTHER,
            {"twin": {"inspection": {"key": key_of(OTHER), "result": "found"}} | DATASET_FOUND},
        ),
        ({"source": {"inline": {"rows": [{"prompt": "x" * 140000}]}}}, {}),
    ],
    ids=["waits for a Secret", "a twin has the answer", "is refused at once"],
)
def test_old_run_is_deleted_when_the_new_spec_starts_none(
    spec: JsonObject, given: JsonObject
) -> None:
    edited = step(status_of(step()), spec=spec, generation=2, **given)
    assert edited.actions == (DeleteRuns(inspection_run_key(KEYS, dataset().owner, key_of())),)


def test_spec_put_back_while_the_new_one_waited_is_read_again() -> None:
    found = step(runs=[run(1, "succeeded", FOUND)])
    edited = step(
        status_of(found),
        spec=OTHER,
        generation=2,
        lacking=Lacking(Reason.SECRET_MISSING, "waiting for Secret"),
    )
    assert "rows" not in status_of(edited)
    back = step(status_of(edited), generation=3)
    assert ready_reason(back) == ("False", "Inspecting")
    assert "StartRun" in names(back)


def test_twin_saves_a_run() -> None:
    """Two Datasets of the same source: one inspection."""
    twin = status_of(step(runs=[run(1, "succeeded", FOUND)]))
    decision = step(twin=twin)
    assert ready_reason(decision) == ("True", "Inspected")
    assert decision.actions == ()
    assert status_of(decision)["digest"] == DATASET_FOUND["digest"]


def test_key_is_about_the_source_and_not_about_the_object() -> None:
    def key(name: str, spec: JsonObject) -> str:
        observed = ObservedDataset(resource("Dataset", name, spec), facts())
        return inspection_key(*inspection_of(observed))

    hub = {"source": {"huggingFace": {"repo": "org/rows"}}}
    token = {"tokenSecretRef": {"name": "hub", "key": "token"}}
    with_token = {"source": {"huggingFace": {"repo": "org/rows"} | token}}
    assert key("one", hub) == key("two", hub)
    assert key("one", hub) != key("one", with_token), "another token may see more"
    assert key("one", hub) != key("one", hub | OTHER)
    assert key("one", hub) == key("one", hub | {"computeTargetRef": {"name": "gpu"}})


@given(st.integers(900, 1024), st.booleans())
def test_status_stays_within_the_schema(length: int, retryable: bool) -> None:
    message = "m" * length
    outcome = Outcome.model_validate(
        {"status": "failed", "reason": "R", "message": message, "retryable": retryable}
    )
    runs = [run(1, "failed", outcome, message=message)]
    assert_fits("Dataset", status_of(step(runs=runs)))

"""waitingDeadlineSeconds and queueDeadlineSeconds of jobs in CML."""

import pytest
from kubetune.api import JsonObject

from tests.cluster.namespace import condition
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cml.lives import RUNNING, SCHEDULING, staying
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster

STARTING = "ENGINE_STARTING"
LONG = 3600


def clock_of(body: JsonObject) -> JsonObject:
    return (body.get("status") or {}).get("queueTime") or {}


def waits_for_room(space: CmlSpace, name: str, *statuses: str) -> JsonObject:
    space.scripts[name] = staying(*statuses)
    space.job(name, queueDeadlineSeconds=LONG)
    return space.until("FineTuneJob", name, lambda o: "since" in clock_of(o))


def ends_the_wait(space: CmlSpace, name: str) -> None:
    space.patch("FineTuneJob", name, {"spec": {"queueDeadlineSeconds": 1}})


def none_is_active(space: CmlSpace, name: str) -> bool:
    return not any(run.active for run in space.cml_runs(name))


@pytest.mark.parametrize(
    ("name", "statuses"), [("scheduled", [SCHEDULING]), ("set-up", [SCHEDULING, STARTING])]
)
def test_a_run_that_waits_is_taken_back(cml_jobs: CmlSpace, name: str, statuses: list[str]) -> None:
    body = waits_for_room(cml_jobs, name, *statuses)
    assert condition(body, "ProgressKept")[:2] == ("True", "KeptOnTarget")
    ends_the_wait(cml_jobs, name)
    body = cml_jobs.phase(name, "Failed")
    assert condition(body, "Failed")[1] == "QueuedTooLong"
    assert clock_of(body)["seconds"] >= 1
    (run,) = cml_jobs.cml_runs(name)
    assert run.stop_asked is not None
    eventually(lambda: none_is_active(cml_jobs, name))


def test_an_operator_that_ends_meanwhile(cml_jobs: CmlSpace, cml_operator: Operator) -> None:
    """Who comes after it knows that the run was stopped by us, and what for."""
    waits_for_room(cml_jobs, "left", SCHEDULING)
    ends_the_wait(cml_jobs, "left")

    def is_stopped() -> bool:
        (run,) = cml_jobs.cml_runs("left")
        return run.stop_asked is not None

    eventually(is_stopped)
    with cml_operator.crashed():
        eventually(lambda: none_is_active(cml_jobs, "left"))
    body = cml_jobs.until("FineTuneJob", "left", lambda o: "completionTime" in o.get("status", {}))
    assert condition(body, "Failed")[1] == "QueuedTooLong"
    assert len(cml_jobs.cml_runs("left")) == 1


def test_who_begins_in_that_moment_goes_on(cml_jobs: CmlSpace, cml_operator: Operator) -> None:
    waits_for_room(cml_jobs, "begins", SCHEDULING)
    (run,) = cml_jobs.cml_runs("begins")
    with cml_operator.crashed():
        run.script = staying(RUNNING)
        ends_the_wait(cml_jobs, "begins")
    body = cml_jobs.phase("begins", "Running")
    assert "since" not in clock_of(body)
    assert run.stop_asked is None


def test_a_workspace_that_does_not_answer_is_waited_for_no_longer(cml_jobs: CmlSpace) -> None:
    """Nothing was ever sent there."""
    cml_jobs.create("ComputeTarget", "nowhere", cml_jobs.cml_target(url="https://127.0.0.1:9"))
    named = {"kind": "ComputeTarget", "name": "nowhere"}
    cml_jobs.job("away", computeTargetRef=named, waitingDeadlineSeconds=LONG)
    cml_jobs.waits("FineTuneJob", "away", "TargetNotReady")
    cml_jobs.patch("FineTuneJob", "away", {"spec": {"waitingDeadlineSeconds": 1}})
    body = cml_jobs.phase("away", "Failed")
    assert condition(body, "Failed")[1] == "WaitedTooLong"
    assert "nowhere" in condition(body, "Failed")[2]

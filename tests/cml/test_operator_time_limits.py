"""activeDeadlineSeconds in CML: the job has it as its timeout, and what a run did comes first."""

import time
from datetime import datetime
from typing import Any

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cml.server import FOREVER, Script
from kubetune_devcluster.cml.server.clock import RealClock

from tests.cluster.namespace import TRAINED, condition
from tests.cluster.operator_process import Operator
from tests.cluster.relay import Relay
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run
from tests.cml.lives import RUNNING, SCHEDULING, attempts, ended, succeeded
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster


@pytest.fixture
def ticking(cml_jobs: CmlSpace) -> CmlSpace:
    """The simulator's clock is the real one."""
    cml_jobs.simulator.clock = RealClock()
    return cml_jobs


def until_past(body: dict[str, Any], seconds: float) -> None:
    """Return when the newest attempt of a job has been running for longer than this."""
    began = datetime.fromisoformat(body["status"]["attempts"][-1]["startTime"]).timestamp()
    eventually(lambda: time.time() > began + seconds)


def test_a_success_that_no_operator_saw_counts_after_the_deadline(
    ticking: CmlSpace, cml_operator: Operator
) -> None:
    ticking.scripts["in-time"] = succeeded(after=4)
    ticking.job("in-time", activeDeadlineSeconds=8)
    body = ticking.phase("in-time", "Running")
    with cml_operator.crashed():
        until_past(body, 9)
    ticking.phase("in-time", "Succeeded")


def test_registration_is_not_training(ticking: CmlSpace) -> None:
    relay = Relay(ticking.cluster.mlflow_url)
    ticking.create("ComputeTarget", "away", ticking.cml_target({"uri": relay.url}))
    registry = {"name": f"{ticking.namespace}-late"}
    ticking.scripts["registered-late"] = Script(steps=((RUNNING, FOREVER),))
    ticking.job(
        "registered-late",
        activeDeadlineSeconds=60,
        output={"registry": registry},
        computeTargetRef={"kind": "ComputeTarget", "name": "away"},
    )
    ticking.phase("registered-late", "Running")
    run_id, model_id = logged_run(ticking.cluster.mlflow_url, ticking, "registered-late")
    relay.mode = "refuse"
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    done = Outcome(status="succeeded", reason="Trained", summary=summary)
    (run,) = ticking.cml_runs("registered-late")
    run.script = ended("ENGINE_SUCCEEDED", done)
    body = ticking.phase("registered-late", "Registering")
    ticking.patch("FineTuneJob", "registered-late", {"spec": {"activeDeadlineSeconds": 1}})
    until_past(body, 3)
    relay.mode = "forward"
    ticking.phase("registered-late", "Succeeded")
    relay.close()


def test_waiting_for_room_takes_no_time(ticking: CmlSpace) -> None:
    steps = ((SCHEDULING, 6), (RUNNING, 1))
    ticking.scripts["waits"] = Script(
        steps=steps, ends="ENGINE_SUCCEEDED", outcome=TRAINED.to_json()
    )
    ticking.job("waits", activeDeadlineSeconds=4)
    body = ticking.phase("waits", "Succeeded")
    assert body["status"]["runTime"]["seconds"] < 4


def test_the_deadline_holds_while_no_operator_looks(
    ticking: CmlSpace, cml_operator: Operator
) -> None:
    ticking.job("unwatched", activeDeadlineSeconds=5)
    body = ticking.phase("unwatched", "Running")
    (job,) = ticking.cml_jobs("unwatched")
    assert (job.settings["timeout"], job.settings["kill_on_timeout"]) == (5, True)
    with cml_operator.crashed():
        until_past(body, 7)
        (run,) = ticking.cml_runs("unwatched")
        assert run.stop_asked is None
    body = ticking.phase("unwatched", "Failed")
    assert condition(body, "Failed")[1] == "DeadlineExceeded"
    assert attempts(body) == [("Failed", "TimedOut")]


def test_a_deadline_that_is_edited_is_kept_by_the_operator(ticking: CmlSpace) -> None:
    ticking.job("edited", activeDeadlineSeconds=3000)
    ticking.phase("edited", "Running")
    ticking.patch("FineTuneJob", "edited", {"spec": {"activeDeadlineSeconds": 1}})
    body = ticking.phase("edited", "Failed")
    assert condition(body, "Failed")[1] == "DeadlineExceeded"


def test_a_later_attempt_gets_what_is_left(ticking: CmlSpace) -> None:
    ticking.job("paused", activeDeadlineSeconds=1000)
    body = ticking.phase("paused", "Running")
    until_past(body, 3)
    ticking.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    ticking.phase("paused", "Suspended")
    ticking.patch("FineTuneJob", "paused", {"spec": {"suspend": False}})
    ticking.phase("paused", "Running")
    (job,) = ticking.cml_jobs("paused")
    assert int(job.settings["timeout"]) <= 997

"""One job and one run, whatever becomes of the answers and of the listings.

The operator never takes anything for not made here: all that was made must be found.
"""

import threading
from typing import Any

import pytest
from kubetune_devcluster.cml.server.records import Run

from tests.cluster.namespace import condition, phase_of
from tests.cluster.support import eventually
from tests.cml.bad_days import (
    advance,
    check_single,
    finish,
    finish_single,
    listings,
    made,
    started,
    submit,
    suspended,
    unknown,
)
from tests.cml.space import CmlSpace

pytestmark = pytest.mark.cluster

OPERATOR = {"KUBETUNE_CML_SETTLE_SECONDS": "600", "KUBETUNE_CML_TIMEOUT_SECONDS": "3"}
LONG = 3600.0

LOST_ANSWERS: dict[str, dict[str, Any]] = {
    "an-error": {"status": 500},
    "a-gateways-error": {"status": 504, "html": True},
    "a-late-answer": {"hang": LONG},
    "no-answer": {"close": True},
    "a-late-error": {"status": 500, "hang": 4},
}


@pytest.mark.parametrize("operation", ["create_job", "create_job_run"])
def test_an_answer_is_lost_after_the_effect(cml_jobs: CmlSpace, operation: str) -> None:
    for fault in LOST_ANSWERS.values():
        cml_jobs.simulator.faults.add(operation, when="after", **fault)
    names = [f"{operation.replace('_', '-')}-{name}" for name in LOST_ANSWERS]
    submit(cml_jobs, *names)
    finish_single(cml_jobs, names)


def test_the_workspace_asks_for_patience(cml_jobs: CmlSpace) -> None:
    for operation in ("create_job", "create_job_run"):
        cml_jobs.simulator.faults.add(operation, status=429, headers={"Retry-After": "1"})
    submit(cml_jobs, "patient")
    finish_single(cml_jobs, ["patient"])
    assert made(cml_jobs, "patient").settings["kill_on_timeout"] is True


def test_a_job_whose_answer_was_lost_shows_later(cml_jobs: CmlSpace) -> None:
    cml_jobs.simulator.behaviour.visible_after = LONG
    cml_jobs.simulator.faults.add("create_job", when="after", status=500)
    submit(cml_jobs, "late")
    message = condition(unknown(cml_jobs, "late"), "Ready")[2]
    assert "it may have happened all the same" in message
    listings(cml_jobs, "list_jobs")
    assert len(cml_jobs.cml_jobs("late")) == 1
    advance(cml_jobs, LONG)
    cml_jobs.simulator.behaviour.visible_after = 0
    finish_single(cml_jobs, ["late"])


def test_listings_are_far_behind(cml_jobs: CmlSpace) -> None:
    """What was made is known from its answer, and no listing shows it for an hour."""
    simulator = cml_jobs.simulator
    simulator.behaviour.visible_after = LONG
    # The job is made, and then looked for again, since its run can't be made yet.
    refused = simulator.faults.add("create_job_run", None, status=429, headers={"Retry-After": "1"})
    submit(cml_jobs, "behind")
    eventually(lambda: refused.hits >= 2)
    simulator.faults.remove(refused)
    run = started(cml_jobs, "behind")
    listings(cml_jobs, "list_job_runs")
    assert simulator.count("get_job_run") > 0
    simulator.set_status(run.id, "ENGINE_STARTING")
    cml_jobs.phase("behind", "Queued")
    simulator.set_status(run.id, None)
    finish_single(cml_jobs, ["behind"])


@pytest.mark.parametrize("answer", ["refuse", "skip"])
def test_another_operator_was_faster_to_run(cml_jobs: CmlSpace, answer: Any) -> None:
    simulator, name = cml_jobs.simulator, f"faster-{answer}"
    simulator.behaviour.second_run = answer
    go = threading.Event()
    held = simulator.faults.add("create_job_run", hold=go)
    submit(cml_jobs, name)
    eventually(lambda: held.hits)
    theirs = simulator.start_run(made(cml_jobs, name).id, {"KUBETUNE_ATTEMPT": "1"})
    go.set()
    assert started(cml_jobs, name) is theirs
    finish_single(cml_jobs, [name])
    statuses = [run.status for run in cml_jobs.cml_runs(name)]
    assert statuses == ["ENGINE_SUCCEEDED", "ENGINE_SKIPPED"]


def test_listings_of_a_busy_project(cml_jobs: CmlSpace) -> None:
    """Pages of two, filters that filter nothing, lists without environments, people's jobs."""
    simulator = cml_jobs.simulator
    people = [simulator.add_job(f"theirs-{number}") for number in range(28)]
    people.append(simulator.add_job("kubetune"))
    people.append(simulator.add_job(f"kubetune-{cml_jobs.namespace}-busy-1-0a1b2c3d4e5f6071"))
    before = [(job.id, dict(job.settings)) for job in people]
    behaviour = simulator.behaviour
    behaviour.page_size_limit, behaviour.name_filter = 2, "ignored"
    behaviour.omit_environment, behaviour.extra_fields = "lists", True
    simulator.faults.add("create_job", when="after", status=500)
    simulator.faults.add("create_job_run", when="after", status=500)
    names = ["busy-2", "busy-3"]
    submit(cml_jobs, *names)
    finish_single(cml_jobs, names)
    assert [(job.id, job.settings) for job in people] == before
    assert all(job.deleted is None and not simulator.runs(job.id) for job in people)
    for job in people:
        simulator.delete_job_by_hand(job.id)


def test_a_persons_job_has_the_name(cml_jobs: CmlSpace) -> None:
    simulator, names = cml_jobs.simulator, ["taken-1", "taken-2"]
    # The operator has chosen the names, and can't make the jobs yet.
    refused = simulator.faults.add("create_job", None, status=429, headers={"Retry-After": "1"})
    submit(cml_jobs, *names)
    theirs = [
        simulator.add_job(
            f"kubetune-{cml_jobs.namespace}-{name}-{cml_jobs.run_key(name)}",
            environment={"WHOSE": "mine"},
        )
        for name in names
    ]
    before = [dict(job.settings) for job in theirs]
    for name, job in zip(names, theirs, strict=True):
        message = cml_jobs.waits("FineTuneJob", name, "NameTaken")
        assert f"job {job.name} exists in CML and was not made by kubetune" in message
    simulator.faults.remove(refused)
    assert [job.settings for job in theirs] == before
    theirs[0].settings["name"] = "my own"
    simulator.delete_job_by_hand(theirs[1].id)

    def over(name: str) -> bool:
        # Nobody tells the operator of what people do there; a change of the object does.
        change = {"look": str(len(simulator.requests))}
        cml_jobs.patch("FineTuneJob", name, {"metadata": {"annotations": change}})
        return phase_of(cml_jobs.get("FineTuneJob", name)) == "Running"

    eventually(lambda: all(over(name) for name in names), interval=2)
    finish(cml_jobs, *names)
    for name, job in zip(names, theirs, strict=True):
        (ours,) = [found for found in cml_jobs.cml_jobs(name) if found is not job]
        assert ours.name == before[names.index(name)]["name"]
        assert simulator.runs(job.id) == []


def test_deleted_while_a_create_is_unknown(cml_jobs: CmlSpace) -> None:
    """What shows afterwards is removed before the FineTuneJob goes."""
    simulator = cml_jobs.simulator
    simulator.behaviour.visible_after = LONG
    simulator.faults.add("create_job", when="after", status=500)
    submit(cml_jobs, "short-lived")
    unknown(cml_jobs, "short-lived")
    cml_jobs.delete("FineTuneJob", "short-lived")
    listings(cml_jobs, "list_jobs")
    assert cml_jobs.find("FineTuneJob", "short-lived")
    advance(cml_jobs, LONG)
    eventually(lambda: cml_jobs.find("FineTuneJob", "short-lived") is None)
    (job,) = cml_jobs.cml_jobs("short-lived")
    assert job.deleted is not None
    assert simulator.runs(job.id) == []


def test_suspended_while_a_run_is_unknown(cml_jobs: CmlSpace) -> None:
    """A run that shows while nothing should run is stopped."""
    simulator = cml_jobs.simulator
    simulator.behaviour.visible_after = LONG
    simulator.faults.add("create_job_run", when="after", status=500)
    submit(cml_jobs, "paused")
    unknown(cml_jobs, "paused")
    cml_jobs.patch("FineTuneJob", "paused", {"spec": {"suspend": True}})
    listings(cml_jobs, "list_job_runs")
    (run,) = cml_jobs.cml_runs("paused")
    assert run.active
    advance(cml_jobs, LONG)
    simulator.behaviour.visible_after = 0
    eventually(lambda: not simulator.run(run.id).active)
    cml_jobs.until("FineTuneJob", "paused", suspended)
    cml_jobs.patch("FineTuneJob", "paused", {"spec": {"suspend": False}})
    again: Run = started(cml_jobs, "paused")
    assert again.id != run.id
    finish(cml_jobs, "paused")
    check_single(cml_jobs, "paused", runs=2)

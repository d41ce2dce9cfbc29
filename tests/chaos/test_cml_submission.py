"""The operator, its twin or the workspace dies in the middle: one job, one run at a time."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml.server import Script
from kubetune_devcluster.cml.server.faults import Fault

from tests.chaos.closed_door import ClosedDoor
from tests.cluster.namespace import TRAINED, condition, phase_of
from tests.cluster.operator_process import Operator
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

OPERATOR = {"KUBETUNE_CML_SETTLE_SECONDS": "4"}
NEVER = {"KUBETUNE_CML_SETTLE_SECONDS": "600"}
LONG = 3600.0
Start = Callable[[dict[str, str]], None]


@pytest.fixture
def restart(cml_operator: Operator, cmlapi_path: Path) -> Iterator[Start]:
    """Starts the operator again with these settings; the module's are back afterwards."""

    def start(settings: dict[str, str]) -> None:
        cml_operator.start(environment={"PYTHONPATH": str(cmlapi_path), **settings})

    yield start
    if cml_operator.ended():
        start(OPERATOR)


@pytest.fixture
def twin(
    cluster: LocalCluster, cml_operator: Operator, cmlapi_path: Path, tmp_path: Path
) -> Iterator[Operator]:
    """A second operator of the cluster."""
    operator = Operator(cluster, tmp_path)
    operator.start(environment={"PYTHONPATH": str(cmlapi_path), **OPERATOR})
    yield operator
    operator.stop()
    print(operator.log_since(0))


# --- the operator is killed


def hang_twice(space: CmlSpace, operation: str) -> list[Fault]:
    """Two requests hang, one of them before, one after its effect."""
    faults = space.simulator.faults
    return [
        faults.add(operation, when="before", hang=LONG, close=True),
        faults.add(operation, when="after", hang=LONG),
    ]


def kill(operator: Operator, faults: list[Fault], happened: Callable[[], object]) -> None:
    """Kill the operator when both requests are there and the effect of one has come."""
    eventually(lambda: all(fault.hits for fault in faults) and happened())
    operator.kill()


def test_killed_at_create_job(cml_jobs: CmlSpace, cml_operator: Operator, restart: Start) -> None:
    names = ["unborn-1", "unborn-2"]
    faults = hang_twice(cml_jobs, "create_job")
    submit(cml_jobs, *names)
    kill(cml_operator, faults, lambda: any(cml_jobs.cml_jobs(name) for name in names))
    restart(OPERATOR)
    finish_single(cml_jobs, names)


def test_killed_at_create_job_run(
    cml_jobs: CmlSpace, cml_operator: Operator, restart: Start
) -> None:
    names = ["waiting-1", "waiting-2"]
    faults = hang_twice(cml_jobs, "create_job_run")
    submit(cml_jobs, *names)
    kill(cml_operator, faults, lambda: any(cml_jobs.cml_runs(name) for name in names))
    restart(OPERATOR)
    finish_single(cml_jobs, names)


def test_killed_at_stop_job_run(cml_jobs: CmlSpace, cml_operator: Operator, restart: Start) -> None:
    names = ["halted-1", "halted-2"]
    submit(cml_jobs, *names)
    runs = [started(cml_jobs, name) for name in names]
    advance(cml_jobs, 1)
    faults = hang_twice(cml_jobs, "stop_job_run")
    for name in names:
        cml_jobs.patch("FineTuneJob", name, {"spec": {"suspend": True}})
    kill(cml_operator, faults, lambda: any(not run.active for run in runs))
    restart(OPERATOR)
    for name in names:
        cml_jobs.until("FineTuneJob", name, suspended)
    assert not any(run.active for run in runs)
    advance(cml_jobs, 1)
    for name in names:
        cml_jobs.patch("FineTuneJob", name, {"spec": {"suspend": False}})
    finish(cml_jobs, *names)
    check_single(cml_jobs, *names, runs=2)


def test_killed_at_delete_job(cml_jobs: CmlSpace, cml_operator: Operator, restart: Start) -> None:
    names = ["dropped-1", "dropped-2"]
    submit(cml_jobs, *names)
    runs = [started(cml_jobs, name) for name in names]
    jobs = [made(cml_jobs, name) for name in names]
    faults = hang_twice(cml_jobs, "delete_job")
    for name in names:
        cml_jobs.delete("FineTuneJob", name)
    kill(cml_operator, faults, lambda: any(job.deleted is not None for job in jobs))
    assert not any(run.active for run in runs)
    restart(OPERATOR)
    for name in names:
        eventually(lambda name=name: cml_jobs.find("FineTuneJob", name) is None)
    assert all(job.deleted is not None for job in jobs)
    assert all(len(cml_jobs.cml_jobs(name)) == 1 for name in names)


def test_the_request_of_a_dead_operator_takes_effect_late(
    cml_jobs: CmlSpace, cml_operator: Operator, restart: Start
) -> None:
    """The next operator doesn't trust its first listing."""
    go = threading.Event()
    held = cml_jobs.simulator.faults.add("create_job", hold=go)
    submit(cml_jobs, "posthumous")
    eventually(lambda: held.hits)
    cml_operator.kill()
    restart(NEVER)
    unknown(cml_jobs, "posthumous")
    listings(cml_jobs, "list_jobs")
    assert cml_jobs.cml_jobs("posthumous") == []
    go.set()
    made(cml_jobs, "posthumous")
    # Whether a run was asked for as well, this operator would doubt for ten minutes.
    restart(OPERATOR)
    finish_single(cml_jobs, ["posthumous"])


# --- the workspace fails


@pytest.mark.parametrize("operation", ["create_job", "create_job_run"])
def test_what_was_not_made_is_sent_again(cml_jobs: CmlSpace, operation: str) -> None:
    """The operator can't know, so it looks until it may take it for not made."""
    simulator = cml_jobs.simulator
    bad_days: list[dict[str, Any]] = [
        {"status": 500},
        {"status": 503, "html": True},
        {"close": True},
    ]
    faults = [simulator.faults.add(operation, **fault) for fault in bad_days]
    names = [f"{operation.replace('_', '-')}-failed-{number}" for number in range(len(faults))]
    before = len(simulator.requests)
    submit(cml_jobs, *names)
    for name in names:
        unknown(cml_jobs, name)
    assert all(fault.hits for fault in faults)
    finish_single(cml_jobs, names)
    asked = [request.operation for request in simulator.requests[before:]]
    lookup = "list_jobs" if operation == "create_job" else "list_job_runs"
    last_failed, next_sent = [at for at, name in enumerate(asked) if name == operation][2:4]
    assert lookup in asked[last_failed:next_sent]


def test_a_burst_of_errors(cml_jobs: CmlSpace) -> None:
    """Whatever is asked about jobs, while the target itself stays Ready."""
    operations = ("upload_file", "list_jobs", "create_job", "list_job_runs", "create_job_run")
    faults = [cml_jobs.simulator.faults.add(name, 3, status=503, html=True) for name in operations]
    names = [f"burst-{number}" for number in range(5)]
    submit(cml_jobs, *names)
    eventually(lambda: not any(fault.left() for fault in faults))
    finish_single(cml_jobs, names)


def test_the_workspace_is_away_while_fifty_jobs_run(cml_jobs: CmlSpace) -> None:
    """Nothing is lost, nothing is done twice, and only one probe knocks meanwhile."""
    simulator = cml_jobs.simulator
    names = [f"many-{number}" for number in range(50)]
    for name in names:
        cml_jobs.scripts[name] = Script(
            steps=(("ENGINE_SCHEDULING", 1), ("ENGINE_RUNNING", 60)), outcome=TRAINED.to_json()
        )
        cml_jobs.job(name)

    def all_jobs(holds: Callable[[dict[str, Any]], bool]) -> None:
        def hold() -> bool:
            found = cml_jobs.objects("FineTuneJob")
            return all(holds(job) for job in found if job["metadata"]["name"] in names)

        eventually(hold, 120, interval=0.5)

    eventually(lambda: all(cml_jobs.cml_runs(name) for name in names), 120, interval=0.5)
    advance(cml_jobs, 2)
    all_jobs(lambda job: phase_of(job) == "Running")
    simulator.stop()
    with ClosedDoor(simulator.url) as door:
        away = ("False", "TargetUnreachable")
        all_jobs(lambda job: condition(job, "TargetAvailable")[:2] == away)
        # Each job may have asked when the workspace went; then they leave it to the probe.
        knocks = len(door.asked)
        assert knocks < 3 * len(names)
        eventually(lambda: len(door.asked) >= knocks + 6)
        project = f"GET /api/v2/projects/{simulator.project.id}"
        assert set(door.asked[knocks:]) == {project}
    advance(cml_jobs, 120)
    simulator.start()
    all_jobs(lambda job: phase_of(job) == "Succeeded")
    check_single(cml_jobs, *names)


# --- somebody else


def test_two_operators_at_once(cml_jobs: CmlSpace, twin: Operator) -> None:
    """By mistake. What both have made of one FineTuneJob is one before anything runs."""
    simulator = cml_jobs.simulator
    names = [f"shared-{number}" for number in range(10)]
    submit(cml_jobs, *names)
    finish(cml_jobs, *names)
    for name in names:
        (_,) = [job for job in cml_jobs.cml_jobs(name) if job.deleted is None]
        assert len([run for run in cml_jobs.cml_runs(name) if run.running]) == 1
        assert simulator.most_active_of(cml_jobs.run_key(name)) == 1


def test_two_operators_make_the_same_job(cml_jobs: CmlSpace, twin: Operator) -> None:
    """The request of one arrives when the other has long begun."""
    go = threading.Event()
    held = cml_jobs.simulator.faults.add("create_job", hold=go)
    submit(cml_jobs, "raced")
    eventually(lambda: held.hits)
    run = started(cml_jobs, "raced")
    (winner,) = cml_jobs.cml_jobs("raced")
    go.set()
    eventually(lambda: len(cml_jobs.cml_jobs("raced")) == 2)
    (loser,) = [job for job in cml_jobs.cml_jobs("raced") if job is not winner]
    eventually(lambda: loser.deleted is not None)
    finish(cml_jobs, "raced")
    assert winner.deleted is None
    assert cml_jobs.cml_runs("raced") == [run]


def double(space: CmlSpace, name: str, older: float = 0.0) -> str:
    """Another operator's job of the same FineTuneJob, made now or earlier; its id."""
    first = made(space, name)
    advance(space, 1)
    job = space.simulator.add_job(first.name, environment=dict(first.environment))
    job.created -= older
    return job.id


def test_a_double_that_never_ran_is_removed(cml_jobs: CmlSpace) -> None:
    submit(cml_jobs, "doubled-1")
    run = started(cml_jobs, "doubled-1")
    gone = double(cml_jobs, "doubled-1", older=LONG)
    eventually(lambda: gone not in [job.id for job in cml_jobs.simulator.jobs()])
    finish(cml_jobs, "doubled-1")
    assert cml_jobs.cml_runs("doubled-1") == [run]


@pytest.mark.parametrize("older", [True, False])
def test_of_two_that_ran_the_oldest_stays(cml_jobs: CmlSpace, older: bool) -> None:
    simulator, name = cml_jobs.simulator, f"doubled-{'older' if older else 'newer'}"
    submit(cml_jobs, name)
    ours, our_job = started(cml_jobs, name), made(cml_jobs, name)
    their_job = double(cml_jobs, name, older=LONG if older else 0)
    theirs = simulator.start_run(their_job, {"KUBETUNE_ATTEMPT": "1"})
    loser, winner = (ours, theirs) if older else (theirs, ours)
    eventually(lambda: simulator.workspace.jobs[loser.job_id].deleted is not None)
    assert not loser.active
    assert winner.active
    job_id = their_job if older else our_job.id
    followed = {"jobId": job_id, "runId": winner.id}
    cml_jobs.until(
        "FineTuneJob", name, lambda o: followed.items() <= o["status"]["external"].items()
    )
    finish(cml_jobs, name)
    assert [job.id for job in cml_jobs.cml_jobs(name) if job.deleted is None] == [job_id]

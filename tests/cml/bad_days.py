"""What the tests of bad days share: trainings that end on demand, and the count afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from kubetune.api import JsonObject
from kubetune_devcluster.cml.server import FOREVER, ManualClock, Script
from kubetune_devcluster.cml.server.records import Job, Run

from tests.cluster.namespace import TRAINED, phase_of
from tests.cluster.support import eventually
from tests.cml.space import CmlSpace

TRAINING = Script(steps=(("ENGINE_RUNNING", FOREVER),), outcome=TRAINED.to_json())


def submit(space: CmlSpace, *names: str, **spec: Any) -> None:
    """Make FineTuneJobs whose runs go on until ``finish``."""
    for name in names:
        space.scripts[name] = TRAINING
        space.job(name, **spec)


def advance(space: CmlSpace, seconds: float) -> None:
    """Move the clock of the module's simulator."""
    cast("ManualClock", space.simulator.clock).advance(seconds)


def active(space: CmlSpace, name: str) -> Run | None:
    """The active run of a FineTuneJob, once there is one; several are an error."""
    found = [run for run in space.cml_runs(name) if run.active]
    assert len(found) < 2, found
    return found[0] if found else None


def started(space: CmlSpace, name: str) -> Run:
    """The active run of a FineTuneJob, once the operator says that it runs."""
    space.phase(name, "Running")
    run = active(space, name)
    assert run is not None
    return run


def finish(space: CmlSpace, *names: str) -> None:
    """Let the runs succeed, and see their jobs through to the end."""
    runs = [started(space, name) for name in names]
    # A run without any duration would not count.
    advance(space, 1)
    for run in runs:
        space.simulator.set_status(run.id, "ENGINE_SUCCEEDED")
    for name in names:
        space.phase(name, "Succeeded")


def check_single(space: CmlSpace, *names: str, runs: int = 1) -> None:
    """Each succeeded with one job that was ever made, and never had two runs at one time."""
    for name in names:
        job = space.phase(name, "Succeeded")
        (made,) = space.cml_jobs(name)
        assert made.deleted is None
        assert job["status"]["external"]["jobId"] == made.id
        assert job["status"]["counts"]["total"] == runs
        ran = [run for run in space.cml_runs(name) if run.status != "ENGINE_SKIPPED"]
        assert len(ran) == runs
        assert space.simulator.most_active_of(space.run_key(name)) == 1


def finish_single(space: CmlSpace, names: Sequence[str]) -> None:
    """``finish`` and ``check_single``."""
    finish(space, *names)
    check_single(space, *names)


def made(space: CmlSpace, name: str) -> Job:
    """The one job of a FineTuneJob, once it is made."""
    eventually(lambda: space.cml_jobs(name))
    (job,) = space.cml_jobs(name)
    return job


def unknown(space: CmlSpace, name: str) -> JsonObject:
    """The FineTuneJob once it says that a create's outcome is not known."""
    return space.until("FineTuneJob", name, lambda o: "SubmissionUnknown" in reasons(o))


def reasons(body: JsonObject) -> set[str]:
    """The reasons of all conditions."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return {condition["reason"] for condition in conditions}


def suspended(body: JsonObject) -> bool:
    """Whether a FineTuneJob rests."""
    return phase_of(body) == "Suspended"


def listings(space: CmlSpace, operation: str, more: int = 2) -> None:
    """Return when an operation was asked some more times."""
    seen = space.simulator.count(operation)
    eventually(lambda: space.simulator.count(operation) >= seen + more)

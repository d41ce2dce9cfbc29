"""Inspections of Datasets and Models in CML, by the real operator."""

from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cml.server import RealClock
from kubetune_devcluster.cml.server.records import Job

from tests.cluster.namespace import ROWS, condition
from tests.cluster.support import eventually
from tests.cml.lives import RUNNING, ended, failed, staying
from tests.cml.space import INSPECTED, CmlSpace

pytestmark = pytest.mark.cluster

FOUND = Outcome(
    status="succeeded",
    reason="Inspected",
    summary={
        "digest": "sha256:d1",
        "splitDigest": "sha256:s1",
        "rows": {"train": 18, "evaluation": 2},
        "columns": [{"name": "prompt", "type": "string"}],
        "columnsTruncated": False,
        "problems": [],
        "problemCount": 0,
    },
)
CRASHED = Outcome(status="failed", reason="SourceUnreadable", message="no answer", retryable=True)
GPUS = {"cpu": "1", "memory": "1Gi", "gpu": 2, "gpuLabel": {"accelerator": "nvidia-a100"}}


def rows(name: str) -> dict[str, Any]:
    """Rows like no other Dataset's, which would be inspected once for both."""
    return {"source": {"inline": {"rows": [*ROWS, {"prompt": name, "completion": name}]}}}


def files(space: CmlSpace, job: Job) -> Path:
    """The folder of a job's files in the project."""
    key = job.environment["KUBETUNE_RUN_KEY"]
    return space.simulator.files() / ".kubetune" / "runs" / key


def nothing_is_left(space: CmlSpace, name: str) -> bool:
    """Whether all jobs of an object are deleted, with their files."""
    jobs = space.cml_jobs(name)
    return all(job.deleted is not None and not files(space, job).exists() for job in jobs)


def started(space: CmlSpace, name: str, jobs: int = 1) -> Job:
    """The newest job of an object once its run was made."""
    eventually(lambda: len(space.cml_jobs(name)) == jobs and space.cml_jobs(name)[-1:])
    job = space.cml_jobs(name)[-1]
    eventually(lambda: space.simulator.runs(job.id))
    return job


def test_inspections_need_no_gpu_and_leave_nothing(cml_jobs: CmlSpace) -> None:
    cml_jobs.create("ComputeTarget", "gpus", cml_jobs.cml_target(resources=GPUS))
    there = {"computeTargetRef": {"name": "gpus"}}
    cml_jobs.scripts |= {
        "corpus": ended("ENGINE_SUCCEEDED", FOUND),
        "weights": ended("ENGINE_SUCCEEDED", INSPECTED["Model"]),
    }
    cml_jobs.create("Dataset", "corpus", rows("corpus") | there)
    cml_jobs.create("Model", "weights", {"source": {"project": {"path": "weights"}}, **there})
    assert cml_jobs.ready("Dataset", "corpus")["rows"] == {"train": 18, "evaluation": 2}
    assert cml_jobs.ready("Model", "weights")["architecture"] == "LlamaForCausalLM"
    for name in ("corpus", "weights"):
        (job,) = cml_jobs.cml_jobs(name)
        (run,) = cml_jobs.cml_runs(name)
        assert job.settings["nvidia_gpu"] == 0
        assert "accelerator_label_id" not in job.settings
        assert job.settings["kill_on_timeout"] is True
        assert run.environment["KUBETUNE_ATTEMPT"] == "1"
        eventually(lambda name=name: nothing_is_left(cml_jobs, name))


def inspection(body: dict[str, Any]) -> dict[str, Any]:
    """status.inspection, empty before the first look."""
    return (body.get("status") or {}).get("inspection") or {}


def test_an_inspection_that_fails_is_repeated_after_a_pause(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["shaky"] = [failed(CRASHED), ended("ENGINE_SUCCEEDED", FOUND)]
    behind, cml_jobs.simulator.clock = cml_jobs.simulator.clock, RealClock()
    try:
        cml_jobs.create("Dataset", "shaky", rows("shaky"))
        # The message stays until the next attempt has ended, however soon that begins.
        body = cml_jobs.until("Dataset", "shaky", lambda o: inspection(o).get("message"))
        assert inspection(body)["message"] == "no answer; it is tried again in 5 s"
        status = cml_jobs.ready("Dataset", "shaky", seconds=150)
    finally:
        cml_jobs.simulator.clock = behind
    assert status["inspection"]["attempts"] == 1
    assert len(cml_jobs.cml_jobs("shaky")) >= 2
    eventually(lambda: nothing_is_left(cml_jobs, "shaky"))


def test_an_inspection_that_is_stopped_in_the_page_is_repeated(cml_jobs: CmlSpace) -> None:
    cml_jobs.scripts["halted"] = [staying(RUNNING), ended("ENGINE_SUCCEEDED", FOUND)]
    cml_jobs.create("Dataset", "halted", rows("halted"))
    job = started(cml_jobs, "halted")
    (run,) = cml_jobs.simulator.runs(job.id)
    cml_jobs.simulator.stop_run_by_hand(run.id)
    cml_jobs.ready("Dataset", "halted")
    eventually(lambda: nothing_is_left(cml_jobs, "halted"))


def test_a_spec_that_changes_leaves_nothing_of_the_first_inspection(cml_jobs: CmlSpace) -> None:
    cml_jobs.create("Dataset", "edited", rows("edited"))
    first = started(cml_jobs, "edited")
    cml_jobs.scripts["edited"] = ended("ENGINE_SUCCEEDED", FOUND)
    cml_jobs.patch("Dataset", "edited", {"spec": {"source": {"inline": {"rows": ROWS[:3]}}}})
    cml_jobs.ready("Dataset", "edited")
    jobs = cml_jobs.cml_jobs("edited")
    assert len(jobs) == 2
    assert jobs[0].id == first.id
    eventually(lambda: nothing_is_left(cml_jobs, "edited"))


def test_a_target_that_changes_leaves_nothing_on_the_first(cml_jobs: CmlSpace) -> None:
    cml_jobs.create("Dataset", "moved", rows("moved"))
    started(cml_jobs, "moved")
    cml_jobs.patch("Dataset", "moved", {"spec": {"computeTargetRef": {"name": "scripted"}}})
    cml_jobs.ready("Dataset", "moved")
    eventually(lambda: nothing_is_left(cml_jobs, "moved"))
    assert len(cml_jobs.cml_jobs("moved")) == 1


def test_an_object_that_is_deleted_leaves_no_job(cml_jobs: CmlSpace) -> None:
    cml_jobs.create("Dataset", "passing", rows("passing"))
    job = started(cml_jobs, "passing")
    assert files(cml_jobs, job).is_dir()
    cml_jobs.delete("Dataset", "passing")
    eventually(lambda: nothing_is_left(cml_jobs, "passing"))


def test_an_object_that_is_made_again_has_one_inspection(cml_jobs: CmlSpace) -> None:
    cml_jobs.create("Dataset", "reborn", rows("reborn"))
    started(cml_jobs, "reborn")
    cml_jobs.scripts["reborn"] = ended("ENGINE_SUCCEEDED", FOUND)
    cml_jobs.delete("Dataset", "reborn")
    eventually(lambda: cml_jobs.find("Dataset", "reborn") is None)
    cml_jobs.create("Dataset", "reborn", rows("reborn"))
    cml_jobs.ready("Dataset", "reborn")
    eventually(lambda: nothing_is_left(cml_jobs, "reborn"))


def test_an_inspection_whose_job_is_deleted_in_the_page_is_repeated(cml_jobs: CmlSpace) -> None:
    cml_jobs.create("Dataset", "lost", rows("lost"))
    job = started(cml_jobs, "lost")
    cml_jobs.until("Dataset", "lost", lambda o: condition(o, "Ready")[1] == "Inspecting")
    cml_jobs.scripts["lost"] = ended("ENGINE_SUCCEEDED", FOUND)
    cml_jobs.simulator.delete_job_by_hand(job.id)
    cml_jobs.ready("Dataset", "lost")
    eventually(lambda: nothing_is_left(cml_jobs, "lost"))

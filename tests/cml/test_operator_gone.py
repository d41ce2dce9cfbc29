"""Objects that go while nobody can see to their runs, and what becomes of these in CML."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubetune.names import ABANDON_RUNS, FINALIZER, IN_USE, RUN_KEY
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml.server import ManualClock
from kubetune_devcluster.cml.server.records import Job

from tests.cluster.crds import Crds, crd_name
from tests.cluster.namespace import annotations, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually
from tests.cml.lives import RUNNING, attempts, staying
from tests.cml.space import SECRET, CmlSpace

pytestmark = pytest.mark.cluster

KINDS = ("FineTuneJob", "Evaluation", "Model")
WITH_CRDS = ("FineTuneJob", "Evaluation")


def make(space: CmlSpace, kind: str, name: str, **spec: Any) -> Job:
    """An object with a run in CML that goes on; the job there."""
    space.scripts[name] = staying(RUNNING)
    before = len(space.cml_jobs(name))
    if kind == "FineTuneJob":
        space.job(name, hyperparameters={"maxSteps": len(name)}, **spec)
    elif kind == "Evaluation":
        given = {
            "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
            "datasetRef": {"name": "rows"},
            "promptRef": {"name": "ask"},
            "metrics": ["exactMatch"],
            "seed": len(name),
        }
        space.create(kind, name, given)
    else:
        space.create(kind, name, {"source": {"project": {"path": name}}})
    eventually(lambda: len(space.cml_jobs(name)) > before)
    job = space.cml_jobs(name)[-1]
    eventually(lambda: space.simulator.runs(job.id))
    if kind != "Model":
        space.until(kind, name, lambda o: phase_of(o) == "Running")
    return job


def strip(space: CmlSpace, kind: str, name: str) -> None:
    """Take the finalizer away from an object that is being deleted, so that it goes.

    It may be gone: an inspection that can't be ended at once is left behind for later.
    """
    patch = {"metadata": {"finalizers": None}}
    status, answer = space.try_request("PATCH", space.path(kind, name), patch)
    assert status < 300 or (kind == "Model" and status == 404), answer
    eventually(lambda: space.find(kind, name) is None)


def ended(space: CmlSpace, job: Job) -> None:
    """Wait until a job is deleted, and nothing of it runs."""
    eventually(lambda: job.deleted is not None, 120)
    assert [run.active for run in space.simulator.runs(job.id)] == [False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seen", [True, False], ids=["operator-runs", "operator-down"])
def test_a_finalizer_that_is_taken_by_force_leaves_no_run(
    cml_jobs: CmlSpace, cml_operator: Operator, kind: str, seen: bool
) -> None:
    name = f"forced-{kind.lower()}" if seen else f"forced-unseen-{kind.lower()}"
    job = make(cml_jobs, kind, name)
    if seen:
        # Away, so that it has to wait, and somebody loses patience.
        cml_jobs.simulator.stop()
        cml_jobs.delete(kind, name)
        strip(cml_jobs, kind, name)
        cml_jobs.simulator.start()
    else:
        with cml_operator.stopped():
            cml_jobs.delete(kind, name)
            strip(cml_jobs, kind, name)
    ended(cml_jobs, job)


def test_what_was_let_go_while_its_workspace_was_away_is_ended_later(cml_jobs: CmlSpace) -> None:
    jobs = {kind: make(cml_jobs, kind, f"let-go-{kind.lower()}") for kind in KINDS}
    cml_jobs.simulator.stop()
    for kind in KINDS:
        name = f"let-go-{kind.lower()}"
        cml_jobs.patch(kind, name, {"metadata": {"annotations": {ABANDON_RUNS: "true"}}})
        cml_jobs.delete(kind, name)
        eventually(lambda kind=kind, name=name: cml_jobs.find(kind, name) is None)
    cml_jobs.simulator.start()
    for job in jobs.values():
        ended(cml_jobs, job)


@pytest.mark.parametrize("seen", [True, False], ids=["operator-runs", "operator-down"])
def test_an_object_that_is_made_again_has_runs_of_its_own(
    cml_jobs: CmlSpace, cml_operator: Operator, seen: bool
) -> None:
    name = "again" if seen else "again-unseen"
    first = make(cml_jobs, "FineTuneJob", name)

    def replace() -> None:
        cml_jobs.delete("FineTuneJob", name)
        strip(cml_jobs, "FineTuneJob", name)
        cml_jobs.job(name, hyperparameters={"maxSteps": len(name)})

    if seen:
        cml_jobs.simulator.stop()
        replace()
        cml_jobs.simulator.start()
    else:
        with cml_operator.stopped():
            replace()
    ended(cml_jobs, first)
    body = cml_jobs.phase(name, "Running", seconds=120)
    assert attempts(body) == [("Running", None)]
    (second,) = [job for job in cml_jobs.cml_jobs(name) if job.deleted is None]
    assert [run.active for run in cml_jobs.simulator.runs(second.id)] == [True]


def restore(space: CmlSpace, name: str, saved: dict[str, Any]) -> None:
    """Have a job that is being deleted go by force, and bring it back from a backup."""
    strip(space, "FineTuneJob", name)
    space.create("FineTuneJob", name, saved["spec"], annotations=annotations(saved))


def keeps_its_run(space: CmlSpace, name: str, job: Job) -> None:
    body = space.phase(name, "Running", seconds=120)
    assert attempts(body) == [("Running", None)]
    assert [found.id for found in space.cml_jobs(name)] == [job.id]
    assert [run.active for run in space.simulator.runs(job.id)] == [True]


@pytest.mark.parametrize("seen", [True, False], ids=["operator-runs", "operator-down"])
def test_a_job_that_a_backup_brings_back_keeps_its_run(
    cml_jobs: CmlSpace, cml_operator: Operator, seen: bool
) -> None:
    name = "restored" if seen else "restored-unseen"
    job = make(cml_jobs, "FineTuneJob", name)
    saved = cml_jobs.get("FineTuneJob", name)
    if seen:
        cml_jobs.simulator.stop()
        cml_jobs.delete("FineTuneJob", name)
        restore(cml_jobs, name, saved)
        cml_jobs.simulator.start()
        keeps_its_run(cml_jobs, name, job)
        return
    left = make(cml_jobs, "FineTuneJob", "lost-in-backup")
    with cml_operator.stopped():
        for gone in (name, "lost-in-backup"):
            cml_jobs.delete("FineTuneJob", gone)
        restore(cml_jobs, name, saved)
        strip(cml_jobs, "FineTuneJob", "lost-in-backup")
    # That this one is ended shows that the other was looked at.
    ended(cml_jobs, left)
    keeps_its_run(cml_jobs, name, job)


@pytest.mark.parametrize("gone", [False, True], ids=["stopping", "gone"])
def test_a_run_is_not_ended_for_who_has_it_no_more(cml_jobs: CmlSpace, gone: bool) -> None:
    """The workspace takes its time with the list, and the job is back before it has answered."""
    name = "back-in-time" if gone else "back-in-no-time"
    job = make(cml_jobs, "FineTuneJob", name)
    saved = cml_jobs.get("FineTuneJob", name)
    answered, faults = threading.Event(), cml_jobs.simulator.faults
    refused = faults.add("list_jobs", times=1, status=503) if gone else None
    slow = None if gone else faults.add("list_jobs", times=None, hold=answered)
    cml_jobs.delete("FineTuneJob", name)
    if refused:
        # Nothing is under way when the job goes, so that what it has left is looked for.
        eventually(lambda: refused.hits)
        slow = faults.add("list_jobs", times=None, hold=answered)
        strip(cml_jobs, "FineTuneJob", name)
    assert slow is not None
    eventually(lambda: slow.hits)
    if not gone:
        strip(cml_jobs, "FineTuneJob", name)
    cml_jobs.create("FineTuneJob", name, saved["spec"], annotations=annotations(saved))
    # Jobs are watched in their order: when this one is seen the other was.
    marker = f"after-{name}"
    cml_jobs.job(marker, datasetRef={"name": "nobody-made-it"})
    cml_jobs.waits("FineTuneJob", marker, "DatasetMissing")
    answered.set()
    faults.remove(slow)
    keeps_its_run(cml_jobs, name, job)


def test_a_stop_of_ours_was_nobodys_by_hand_though_the_status_has_lost_it(
    cml_jobs: CmlSpace,
) -> None:
    """A run that somebody has stopped cancels the job; this one goes on."""
    name = "forgetful"
    job = make(cml_jobs, "FineTuneJob", name)
    cml_jobs.simulator.behaviour.stop_seconds = 60
    cml_jobs.patch("FineTuneJob", name, {"spec": {"suspend": True}})
    eventually(lambda: cml_jobs.simulator.runs(job.id)[0].stop_asked is not None)
    cml_jobs.patch("FineTuneJob", name, {"spec": {"suspend": False}})
    fields = dict.fromkeys(cml_jobs.get("FineTuneJob", name)["status"])
    cml_jobs.patch("FineTuneJob", name, {"status": fields}, "status")
    cml_jobs.phase(name, "Stopping")
    clock = cml_jobs.simulator.clock
    assert isinstance(clock, ManualClock)
    clock.advance(61)
    body = cml_jobs.phase(name, "Running")
    assert attempts(body) == [("Stopped", None), ("Running", None)]
    assert cml_jobs.simulator.most_active(job.id) == 1


def test_a_job_that_is_replaced_and_deleted_unseen_leaves_no_run(
    cml_jobs: CmlSpace, cml_operator: Operator
) -> None:
    job = make(cml_jobs, "FineTuneJob", "put-away")
    with cml_operator.stopped():
        # The file has no finalizer, so nothing keeps the object.
        cml_jobs.replace("FineTuneJob", "put-away")
        cml_jobs.delete("FineTuneJob", "put-away")
        eventually(lambda: cml_jobs.find("FineTuneJob", "put-away") is None)
    ended(cml_jobs, job)


def test_what_was_let_go_is_left_alone(cml_jobs: CmlSpace, cml_operator: Operator) -> None:
    """By its policy or by an orphaning deletion, seen or not: nobody takes it for left behind."""
    kept = [make(cml_jobs, "FineTuneJob", "policy", deletionPolicy="Orphan")]
    cml_jobs.delete("FineTuneJob", "policy")
    kept.append(make(cml_jobs, "FineTuneJob", "changed-policy"))
    cml_jobs.patch("FineTuneJob", "changed-policy", {"spec": {"deletionPolicy": "Orphan"}})
    cml_jobs.delete("FineTuneJob", "changed-policy")
    kept.append(make(cml_jobs, "FineTuneJob", "orphaned"))
    cml_jobs.delete("FineTuneJob", "orphaned", "Orphan")
    kept.append(make(cml_jobs, "Evaluation", "orphaned-evaluation"))
    cml_jobs.delete("Evaluation", "orphaned-evaluation", "Orphan")
    for kind, name in (
        ("FineTuneJob", "policy"),
        ("FineTuneJob", "changed-policy"),
        ("FineTuneJob", "orphaned"),
        ("Evaluation", "orphaned-evaluation"),
    ):
        eventually(lambda kind=kind, name=name: cml_jobs.find(kind, name) is None)
    kept.append(make(cml_jobs, "FineTuneJob", "unseen-policy", deletionPolicy="Orphan"))
    # That this one is ended shows that the others were looked at.
    left = make(cml_jobs, "FineTuneJob", "no-policy")
    with cml_operator.stopped():
        for name in ("unseen-policy", "no-policy"):
            cml_jobs.delete("FineTuneJob", name)
            strip(cml_jobs, "FineTuneJob", name)
    ended(cml_jobs, left)
    for job in kept:
        assert job.deleted is None, job.name
        assert [run.active for run in cml_jobs.simulator.runs(job.id)] == [True], job.name


def test_an_orphaning_deletion_that_nobody_saw_is_one_as_any(
    cml_jobs: CmlSpace, cml_operator: Operator
) -> None:
    """Nothing of it stays on the object; docs/status.md names deletionPolicy for that."""
    job = make(cml_jobs, "FineTuneJob", "unseen-orphan")
    with cml_operator.stopped():
        cml_jobs.delete("FineTuneJob", "unseen-orphan", "Orphan")

        def only_ours() -> bool:
            body = cml_jobs.get("FineTuneJob", "unseen-orphan")
            return body["metadata"]["finalizers"] == [FINALIZER]

        eventually(only_ours)
    eventually(lambda: cml_jobs.find("FineTuneJob", "unseen-orphan") is None)
    ended(cml_jobs, job)


def test_a_job_that_says_nothing_of_its_run_finds_it_again(
    cml_jobs: CmlSpace, cml_operator: Operator
) -> None:
    """Status, annotation and finalizer are lost while no operator runs."""
    job = make(cml_jobs, "FineTuneJob", "wiped")
    key = cml_jobs.run_key("wiped")
    with cml_operator.stopped():
        cml_jobs.replace("FineTuneJob", "wiped")
        fields = dict.fromkeys(cml_jobs.get("FineTuneJob", "wiped")["status"])
        cml_jobs.patch("FineTuneJob", "wiped", {"status": fields}, "status")

    def tied(body: dict[str, Any]) -> bool:
        # The annotation follows the status.
        return phase_of(body) == "Running" and RUN_KEY in annotations(body)

    body = cml_jobs.until("FineTuneJob", "wiped", tied, seconds=120)
    assert (body["status"]["runKey"], annotations(body)[RUN_KEY]) == (key, key)
    assert attempts(body) == [("Running", None)]
    assert [found.id for found in cml_jobs.cml_jobs("wiped")] == [job.id]
    assert cml_jobs.simulator.most_active_of(key) == 1


@pytest.fixture
def crds(cluster: LocalCluster, cml: CmlSpace) -> Iterator[Crds]:
    """Made again before the namespace is tidied up."""
    crds = Crds(cluster)
    yield crds
    crds.apply(*WITH_CRDS)
    crds.served(cml, *WITH_CRDS)


@pytest.mark.parametrize("seen", [True, False], ids=["operator-runs", "operator-down"])
def test_a_crd_that_is_deleted_takes_its_runs_along(
    cml: CmlSpace, cml_operator: Operator, cluster: LocalCluster, crds: Crds, seen: bool
) -> None:
    cml.inputs()
    jobs = [make(cml, "FineTuneJob", "going"), make(cml, "Evaluation", "gone-too")]
    names = [crd_name(kind) for kind in WITH_CRDS]
    if seen:
        crds.delete(*WITH_CRDS)
    else:
        with cml_operator.stopped():
            cluster.kubectl("delete", "crd", "--wait=false", *names)
            for kind, name in (("FineTuneJob", "going"), ("Evaluation", "gone-too")):
                cml.until(kind, name, lambda o: "deletionTimestamp" in o["metadata"])
        cluster.kubectl("wait", "--for=delete", "--timeout=90s", *(f"crd/{name}" for name in names))
    for job in jobs:
        ended(cml, job)
    # The target and its Secret are held by nobody any more.
    for kind, name in (("ComputeTarget", "workspace"), ("Secret", SECRET)):
        cml.until(kind, name, lambda o: IN_USE not in (o["metadata"].get("finalizers") or ()))

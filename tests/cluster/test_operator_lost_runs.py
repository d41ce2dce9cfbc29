"""Measurements and inspections whose Job is taken away: their pods are stopped and waited for."""

import pytest
from kubetune import names

from tests.cluster.operator_process import Operator
from tests.cluster.subjects import Subjects
from tests.cluster.support import eventually, frozen
from tests.cluster.workspace import Workspace, condition, phase_of

pytestmark = pytest.mark.cluster

KINDS = ("Evaluation", "Dataset", "Model")
NEXT = {"Evaluation": 2, "Dataset": 1, "Model": 1}
"""The attempt that follows a lost first one: an inspection's try isn't over before it has ended."""


@pytest.fixture(scope="module")
def subjects(module_space: Workspace) -> Subjects:
    return Subjects(module_space, module_space.scripted_target("all-scripted"))


def lose_the_job(jobs: Workspace, kind: str, name: str) -> None:
    (job,) = jobs.runs(name, kind)
    jobs.delete("Job", job["metadata"]["name"], "Orphan")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("away", [False, True], ids=["operator-runs", "operator-away"])
def test_the_next_run_waits_for_a_pod_without_a_job(
    jobs: Workspace, subjects: Subjects, operator: Operator, kind: str, away: bool
) -> None:
    name = "stray-unseen" if away else "stray"
    subjects.make(kind, name)
    pod = subjects.running(kind, name)
    waits = pod["metadata"]["name"]
    with frozen(subjects.run_key(pod)):
        if away:
            with operator.stopped():
                lose_the_job(jobs, kind, name)
                eventually(lambda: jobs.runs(name, kind) == [])
        else:
            lose_the_job(jobs, kind, name)
        jobs.until(kind, name, lambda o: waits in condition(o, "Ready")[2])
        jobs.until("Pod", waits, lambda o: o["metadata"].get("deletionTimestamp"))
        assert jobs.runs(name, kind) == []
    subjects.end(kind, subjects.running(kind, name, NEXT[kind]))
    subjects.done(kind, name)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_deleted_leaves_no_pod_without_a_job(
    jobs: Workspace, subjects: Subjects, kind: str
) -> None:
    subjects.make(kind, "dropped")
    subjects.running(kind, "dropped")
    lose_the_job(jobs, kind, "dropped")
    jobs.delete(kind, "dropped")
    eventually(lambda: jobs.find(kind, "dropped") is None)
    eventually(lambda: subjects.pods(kind, "dropped") == [])


def test_suspension_waits_for_a_pod_without_a_job(jobs: Workspace, subjects: Subjects) -> None:
    subjects.make("Evaluation", "paused")
    pod = subjects.running("Evaluation", "paused")
    with frozen(subjects.run_key(pod)):
        lose_the_job(jobs, "Evaluation", "paused")
        jobs.patch("Evaluation", "paused", {"spec": {"suspend": True}})
        jobs.until("Evaluation", "paused", lambda o: phase_of(o) == "Stopping")
        jobs.until("Pod", pod["metadata"]["name"], lambda o: o["metadata"].get("deletionTimestamp"))
    jobs.until("Evaluation", "paused", lambda o: phase_of(o) == "Suspended")
    assert subjects.pods("Evaluation", "paused") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_without_its_owner_is_waited_for(
    jobs: Workspace, subjects: Subjects, kind: str
) -> None:
    """Somebody has taken the owner reference away: it is nobody's to stop, but it runs."""
    subjects.make(kind, "cut-loose")
    pod = subjects.running(kind, "cut-loose")
    (job,) = jobs.runs("cut-loose", kind)
    jobs.patch("Job", job["metadata"]["name"], {"metadata": {"ownerReferences": None}})
    told = pod["metadata"]["name"]
    jobs.until(kind, "cut-loose", lambda o: told in condition(o, "Ready")[2])
    assert len(subjects.pods(kind, "cut-loose")) == 1
    subjects.end(kind, pod)
    if kind != "Evaluation":
        # Its name is the next try's.
        assert job["metadata"]["name"] in jobs.waits(kind, "cut-loose", "NameTaken")
        jobs.delete("Job", job["metadata"]["name"])
    else:
        subjects.end(kind, subjects.running(kind, "cut-loose", attempt=2))
    subjects.done(kind, "cut-loose")


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_without_its_labels_is_found(jobs: Workspace, subjects: Subjects, kind: str) -> None:
    subjects.make(kind, "unlabelled")
    pod = subjects.running(kind, "unlabelled")
    (job,) = jobs.runs("unlabelled", kind)
    labels = dict.fromkeys((names.RUN_KEY, names.OWNER_KIND, names.OWNER_NAME))
    jobs.patch("Job", job["metadata"]["name"], {"metadata": {"labels": labels}})
    subjects.end(kind, pod)
    body = subjects.done(kind, "unlabelled")
    if kind == "Evaluation":
        (candidate,) = body["status"]["candidates"]
        assert candidate["counts"]["total"] == 1

"""Measurements and inspections whose Job is taken away: their pods are stopped and waited for."""

import contextlib
from typing import Any

import pytest
from kubetune import names

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import Subjects
from tests.cluster.support import eventually, frozen

pytestmark = pytest.mark.cluster

KINDS = ("Evaluation", "Dataset", "Model")
NEXT = {"Evaluation": 2, "Dataset": 1, "Model": 1}
"""The attempt that follows a lost first one: an inspection's try isn't over before it has ended."""


@pytest.fixture(scope="module")
def subjects(module_space: Namespace) -> Subjects:
    return Subjects(module_space, module_space.scripted_target("all-scripted"))


def begin(subjects: Subjects, name: str) -> dict[str, dict[str, Any]]:
    """An object of each kind with a run that goes on; the pods by kind."""
    for kind in KINDS:
        subjects.make(kind, name)
    return {kind: subjects.running(kind, name) for kind in KINDS}


def lose_the_job(jobs: Namespace, kind: str, name: str) -> None:
    (job,) = jobs.runs(name, kind)
    jobs.delete("Job", job["metadata"]["name"], "Orphan")


@pytest.mark.parametrize("away", [False, True], ids=["operator-runs", "operator-away"])
def test_the_next_run_waits_for_a_pod_without_a_job(
    jobs: Namespace, subjects: Subjects, operator: Operator, away: bool
) -> None:
    name = "stray-unseen" if away else "stray"
    pods = begin(subjects, name)
    with contextlib.ExitStack() as ice:
        for pod in pods.values():
            ice.enter_context(frozen(subjects.run_key(pod)))
        with operator.stopped() if away else contextlib.nullcontext():
            for kind in KINDS:
                lose_the_job(jobs, kind, name)
            eventually(lambda: not any(jobs.runs(name, kind) for kind in KINDS))
        for kind, pod in pods.items():
            waits = pod["metadata"]["name"]
            jobs.until(kind, name, lambda o, waits=waits: waits in condition(o, "Ready")[2])
            jobs.until("Pod", waits, lambda o: o["metadata"].get("deletionTimestamp"))
            assert jobs.runs(name, kind) == []
    for kind in KINDS:
        subjects.end(kind, subjects.running(kind, name, NEXT[kind]))
    for kind in KINDS:
        subjects.done(kind, name)


def test_what_is_deleted_leaves_no_pod_without_a_job(jobs: Namespace, subjects: Subjects) -> None:
    begin(subjects, "dropped")
    for kind in KINDS:
        lose_the_job(jobs, kind, "dropped")
        jobs.delete(kind, "dropped")
    for kind in KINDS:
        eventually(lambda kind=kind: jobs.find(kind, "dropped") is None)
        eventually(lambda kind=kind: subjects.pods(kind, "dropped") == [])


def test_suspension_waits_for_a_pod_without_a_job(jobs: Namespace, subjects: Subjects) -> None:
    subjects.make("Evaluation", "paused")
    pod = subjects.running("Evaluation", "paused")
    with frozen(subjects.run_key(pod)):
        lose_the_job(jobs, "Evaluation", "paused")
        jobs.patch("Evaluation", "paused", {"spec": {"suspend": True}})
        jobs.until("Evaluation", "paused", lambda o: phase_of(o) == "Stopping")
        jobs.until("Pod", pod["metadata"]["name"], lambda o: o["metadata"].get("deletionTimestamp"))
    jobs.until("Evaluation", "paused", lambda o: phase_of(o) == "Suspended")
    assert subjects.pods("Evaluation", "paused") == []


def test_a_job_without_its_labels_is_found(jobs: Namespace, subjects: Subjects) -> None:
    pods = begin(subjects, "unlabelled")
    labels = dict.fromkeys((names.RUN_KEY, names.OWNER_KIND, names.OWNER_NAME))
    for kind, pod in pods.items():
        (job,) = jobs.runs("unlabelled", kind)
        jobs.patch("Job", job["metadata"]["name"], {"metadata": {"labels": labels}})
        subjects.end(kind, pod)
    for kind in KINDS:
        subjects.done(kind, "unlabelled")
    (candidate,) = jobs.get("Evaluation", "unlabelled")["status"]["candidates"]
    assert candidate["counts"]["total"] == 1

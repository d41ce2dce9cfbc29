"""What users do to objects of each kind that has runs: nothing is lost, doubled or stuck.

All kinds go through each story side by side.
"""

import contextlib

import pytest
from kubetune.api import JsonObject
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace, condition
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import KINDS, Subjects
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def subjects(module_space: Namespace) -> Subjects:
    return Subjects(module_space, module_space.scripted_target("all-scripted"))


def begin(subjects: Subjects, name: str) -> dict[str, JsonObject]:
    """An object of each kind with a run that goes on; the pods by kind."""
    for kind in KINDS:
        subjects.make(kind, name)
    return {kind: subjects.running(kind, name) for kind in KINDS}


def looked_at(space: Namespace, kind: str, name: str) -> None:
    """Wait until the operator has said something of the object as it is now."""
    space.until(kind, name, lambda o: condition(o, "Ready")[0])


def end(space: Namespace, subjects: Subjects, name: str, pods: dict[str, JsonObject]) -> None:
    """See the only run of each kind through to its end."""
    for kind, pod in pods.items():
        assert subjects.running(kind, name)["metadata"]["uid"] == pod["metadata"]["uid"]
        assert len(space.runs(name, kind)) == 1
        subjects.end(kind, pod)
    for kind in pods:
        subjects.done(kind, name)


@pytest.mark.parametrize("wiped", [False, True], ids=["replaced", "replaced-and-wiped-unseen"])
def test_a_replacement_keeps_the_run(
    jobs: Namespace, subjects: Subjects, operator: Operator, wiped: bool
) -> None:
    name = "wiped" if wiped else "replaced"
    pods = begin(subjects, name)
    with operator.stopped() if wiped else contextlib.nullcontext():
        for kind in KINDS:
            jobs.replace(kind, name)
            if wiped:
                fields = dict.fromkeys(jobs.get(kind, name)["status"])
                jobs.patch(kind, name, {"status": fields}, "status")
    for kind in KINDS:
        looked_at(jobs, kind, name)
    end(jobs, subjects, name, pods)


@pytest.mark.parametrize("how", ["Background", "Foreground"])
def test_what_is_made_again_at_once_has_a_run_of_its_own(
    jobs: Namespace, subjects: Subjects, how: str
) -> None:
    name = f"again-{how.lower()}"
    pods = begin(subjects, name)
    for kind in KINDS:
        jobs.delete(kind, name, how)
    for kind in KINDS:
        eventually(lambda kind=kind: jobs.find(kind, name) is None)
        subjects.make(kind, name)
    second = {kind: another(subjects, kind, name, pods[kind]) for kind in KINDS}
    for kind in KINDS:
        eventually(lambda kind=kind: len(subjects.pods(kind, name)) == 1)
        eventually(lambda kind=kind: len(jobs.runs(name, kind)) == 1)
    end(jobs, subjects, name, second)


def test_a_run_goes_on_when_its_target_is_made_again_as_another_one(
    jobs: Namespace, subjects: Subjects
) -> None:
    there = Subjects(jobs, jobs.scripted_target("changes"))
    pods = begin(there, "moving")
    jobs.delete("ComputeTarget", "changes")
    eventually(lambda: jobs.find("ComputeTarget", "changes") is None)
    for kind in KINDS:
        looked_at(jobs, kind, "moving")
    jobs.scripted_target("changes", resources={"cpu": "60m", "memory": "96Mi"})
    for kind in KINDS:
        looked_at(jobs, kind, "moving")
    end(jobs, there, "moving", pods)


def test_an_orphaning_deletion_leaves_the_run(jobs: Namespace, subjects: Subjects) -> None:
    pods = begin(subjects, "orphaned")
    for kind in KINDS:
        jobs.delete(kind, "orphaned", "Orphan")
    for kind in KINDS:
        # One after the other: the node has no room for all of them twice.
        eventually(lambda kind=kind: jobs.find(kind, "orphaned") is None)
        subjects.make(kind, "orphaned")
        # Its namesake has nothing to do with it.
        subjects.end(kind, another(subjects, kind, "orphaned", pods[kind]))
        subjects.done(kind, "orphaned")
        (alive,) = subjects.pods(kind, "orphaned")
        assert alive["metadata"]["uid"] == pods[kind]["metadata"]["uid"]
        assert not alive["metadata"].get("deletionTimestamp")
        subjects.end(kind, alive)


def another(subjects: Subjects, kind: str, name: str, known: JsonObject) -> JsonObject:
    """A running pod of an object beside one that is known."""

    def found() -> JsonObject | None:
        for pod in subjects.pods(kind, name):
            fresh = pod["metadata"]["uid"] != known["metadata"]["uid"]
            if fresh and pod["status"].get("phase") == "Running":
                return pod
        return None

    return eventually(found) or {}


@pytest.mark.parametrize("seen", [True, False], ids=["operator-runs", "operator-down"])
def test_a_namespace_goes_with_all_that_runs_in_it(
    cluster: LocalCluster, operator: Operator, seen: bool
) -> None:
    space = Namespace(cluster)
    space.inputs()
    subjects = Subjects(space, space.scripted_target("all-scripted"))
    begin(subjects, "going")
    path = f"/api/v1/namespaces/{space.namespace}"
    with contextlib.nullcontext() if seen else operator.stopped():
        space.request("DELETE", path)
        if not seen:
            held = "FineTuneJob", "going"
            space.until(*held, lambda o: "deletionTimestamp" in o["metadata"])
    eventually(lambda: space.try_request("GET", path)[0] == 404)
    space.close()

"""Children whose owner reference or labels somebody removes, as a PUT of them does.

All kinds go through each story side by side: most of it is waiting for the next try.
"""

import pytest
from kubetune import names

from tests.cluster.namespace import Namespace, condition
from tests.cluster.subjects import KINDS, Subjects
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

OUR_LABELS = dict.fromkeys((names.RUN_KEY, names.OWNER_KIND, names.OWNER_NAME, names.PURPOSE))


@pytest.fixture(scope="module")
def subjects(module_space: Namespace) -> Subjects:
    return Subjects(module_space, module_space.scripted_target("all-scripted"))


def begin(subjects: Subjects, name: str) -> None:
    """An object of each kind, with a run that goes on and one more to spare."""
    for kind in KINDS:
        more = {"backoffLimit": 1} if kind == "FineTuneJob" else {}
        subjects.make(kind, name, **more)
    for kind in KINDS:
        subjects.running(kind, name)


def go_on(subjects: Subjects, name: str, **attempts: int) -> None:
    """See the next run of each kind through to its end: by default the second attempt."""
    for kind in KINDS:
        subjects.end(kind, subjects.running(kind, name, attempts.get(kind, 2)))
    for kind in KINDS:
        subjects.done(kind, name)


def only_job(space: Namespace, kind: str, name: str) -> str:
    (job,) = space.runs(name, kind)
    return job["metadata"]["name"]


def cut_loose(space: Namespace, kind: str, child: str, *, labels: bool = False) -> None:
    """Take the owner reference from a child, and perhaps all by which we find it."""
    bare = {"labels": OUR_LABELS, "annotations": {names.OWNER_NAME: None}} if labels else {}
    space.patch(kind, child, {"metadata": {"ownerReferences": None, **bare}})


def hold_back(space: Namespace, kind: str, name: str) -> str:
    """Suspend a Job, as a queue does, and cut it loose without a pod; its name."""
    job = only_job(space, kind, name)
    space.patch("Job", job, {"spec": {"suspend": True}})
    eventually(lambda: not space.children("Pod", name, kind))
    cut_loose(space, "Job", job, labels=True)
    return job


def until_told(space: Namespace, kind: str, name: str, what: str) -> None:
    space.until(kind, name, lambda o: what in condition(o, "Ready")[2])


@pytest.mark.parametrize("labels", [False, True], ids=["owner", "owner-and-labels"])
def test_a_job_that_was_cut_loose_is_waited_for_and_counts_as_lost(
    jobs: Namespace, subjects: Subjects, labels: bool
) -> None:
    """It is nobody's to stop, but it runs."""
    name = "bare" if labels else "cut-loose"
    begin(subjects, name)
    loose = {kind: only_job(jobs, kind, name) for kind in KINDS}
    pods = {kind: subjects.running(kind, name) for kind in KINDS}
    for kind in KINDS:
        cut_loose(jobs, "Job", loose[kind], labels=labels)
    for kind in KINDS:
        until_told(jobs, kind, name, pods[kind]["metadata"]["name"])
        assert len(subjects.pods(kind, name)) == 1
    for kind in KINDS:
        subjects.end(kind, pods[kind])
    go_on(subjects, name)
    # It is left to whoever has cut it loose.
    assert all(jobs.find("Job", job) for job in loose.values())


def test_nothing_starts_beside_a_job_that_was_cut_loose_without_a_pod(
    jobs: Namespace, subjects: Subjects
) -> None:
    """As where a queue or a quota holds its pod back: it may come at any time."""
    begin(subjects, "held-back")
    loose = {kind: hold_back(jobs, kind, "held-back") for kind in KINDS}
    for kind in KINDS:
        until_told(jobs, kind, "held-back", f"Job {loose[kind]} isn't ours any more")
        assert subjects.pods(kind, "held-back") == []
        jobs.patch("Job", loose[kind], {"spec": {"suspend": False}})
    for kind in KINDS:
        subjects.end(kind, subjects.running(kind, "held-back"))
    go_on(subjects, "held-back")


def test_nothing_starts_beside_a_job_that_was_cut_loose_until_it_is_deleted(
    jobs: Namespace, subjects: Subjects
) -> None:
    begin(subjects, "let-go")
    loose = {kind: hold_back(jobs, kind, "let-go") for kind in KINDS}
    for kind in KINDS:
        until_told(jobs, kind, "let-go", f"Job {loose[kind]} isn't ours any more")
        jobs.delete("Job", loose[kind])
    # An inspection's try isn't over before it has ended.
    go_on(subjects, "let-go", Dataset=1, Model=1)


def test_a_plan_that_was_cut_loose_is_claimed_again(jobs: Namespace, subjects: Subjects) -> None:
    begin(subjects, "planned")
    plans = {kind: jobs.children("ConfigMap", "planned", kind)[0] for kind in KINDS}
    for kind in KINDS:
        cut_loose(jobs, "ConfigMap", plans[kind]["metadata"]["name"], labels=True)
        jobs.end_run(subjects.run_key(subjects.running(kind, "planned")), code=1, outcome=None)
    for kind in KINDS:
        subjects.running(kind, "planned", attempt=2)
        (again,) = jobs.children("ConfigMap", "planned", kind)
        for field in ("uid", "ownerReferences"):
            assert again["metadata"][field] == plans[kind]["metadata"][field]
    go_on(subjects, "planned")


def test_a_plan_of_somebody_else_is_left_alone(jobs: Namespace, subjects: Subjects) -> None:
    begin(subjects, "foreign")
    plans = {
        kind: jobs.children("ConfigMap", "foreign", kind)[0]["metadata"]["name"] for kind in KINDS
    }
    for kind in KINDS:
        jobs.delete("ConfigMap", plans[kind])
        eventually(lambda kind=kind: jobs.find("ConfigMap", plans[kind]) is None)
        jobs.create("ConfigMap", plans[kind], data={"plan.json": "{}"})
        jobs.end_run(subjects.run_key(subjects.running(kind, "foreign")), code=1, outcome=None)
    for kind in KINDS:
        assert f"{plans[kind]} exists" in jobs.waits(kind, "foreign", "NameTaken")
        jobs.delete("ConfigMap", plans[kind])
    go_on(subjects, "foreign")


def test_a_service_that_was_cut_loose_is_claimed_again(jobs: Namespace) -> None:
    jobs.job("several", backoffLimit=1, workers=2)
    jobs.phase("several", "Running")
    service = names.service_name(jobs.run_key("several"))
    cut_loose(jobs, "Service", service, labels=True)
    jobs.end("several", code=1, outcome=None)
    jobs.until("FineTuneJob", "several", lambda o: len(o["status"]["attempts"]) == 2)
    jobs.phase("several", "Running")
    (owner,) = jobs.get("Service", service)["metadata"]["ownerReferences"]
    assert owner["name"] == "several"
    jobs.end("several", attempt=2)
    jobs.phase("several", "Succeeded")

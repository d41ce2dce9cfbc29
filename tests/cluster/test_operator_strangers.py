"""Forged children: nothing that a tenant of the cluster makes counts as a run of somebody's job.

Each story is told by users with the rights of an ordinary tenant, against the real API server.
"""

import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace, annotations, condition
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import KINDS, Subjects
from tests.cluster.support import eventually
from tests.cluster.tenant import Tenant

pytestmark = pytest.mark.cluster

FORGED = Outcome(
    status="succeeded",
    reason="Trained",
    summary={"metrics": {"eval_loss": 0.0}, "modelId": "m-forged", "runId": "0" * 32, "steps": 1},
)
EVENTS = "/api/v1/namespaces/{}/events?fieldSelector=reason=NotOurs"
Change = Callable[[JsonObject], object]


@pytest.fixture(scope="module")
def other(cluster: LocalCluster, operator_process: Operator) -> Iterator[Namespace]:
    """The namespace of another team."""
    if operator_process.ended():
        operator_process.start()
    space = Namespace(cluster)
    yield space
    space.close()


@pytest.fixture(scope="module")
def stranger(other: Namespace) -> Iterator[Tenant]:
    """A tenant of that team."""
    tenant = Tenant(other, "stranger")
    yield tenant
    tenant.close()


@pytest.fixture(scope="module")
def neighbour(module_space: Namespace) -> Iterator[Tenant]:
    """A tenant of the same namespace."""
    tenant = Tenant(module_space, "neighbour")
    yield tenant
    tenant.close()


def running(jobs: Namespace, name: str, **spec: Any) -> JsonObject:
    """The batch Job of a job's first attempt, once it runs."""
    jobs.job(name, backoffLimit=0, **spec)
    jobs.phase(name, "Running")
    (run,) = jobs.runs(name)
    return run


def forged(run: JsonObject, change: Change = lambda _: None, **spec: Any) -> JsonObject:
    """A Job as like to a run as a user can make it; what it runs ends as attempt 9."""
    metadata, template = run["metadata"], deepcopy(run["spec"]["template"])
    for label in [label for label in template["metadata"]["labels"] if "batch." in label]:
        del template["metadata"]["labels"][label]
    for label in ("controller-uid", "job-name"):
        template["metadata"]["labels"].pop(label, None)
    (container,) = template["spec"]["containers"]
    for variable in container["env"]:
        if variable["name"] == plan.ENV_ATTEMPT:
            variable["value"] = "9"
    job: JsonObject = {
        "metadata": {
            "labels": dict(metadata["labels"]),
            "annotations": dict(metadata["annotations"]),
            "ownerReferences": deepcopy(metadata["ownerReferences"]),
        },
        "spec": {"backoffLimit": 0, "template": template} | spec,
    }
    change(job)
    return job


def submit(tenant: Tenant, run: JsonObject, name: str, change: Change, **spec: Any) -> JsonObject:
    job = forged(run, change, **spec)
    return tenant.create("Job", name, job["spec"], metadata=job["metadata"])


def attempt(value: str | None) -> Change:
    """With another attempt in the labels of Job and pod."""

    def change(job: JsonObject) -> None:
        for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
            metadata["labels"].pop(names.ATTEMPT, None)
            if value is not None:
                metadata["labels"][names.ATTEMPT] = value

    return change


def numbered(run: JsonObject, number: str) -> str:
    """The name that the operator would give another attempt."""
    return f"{run['metadata']['name'].rpartition('-')[0]}-{number}"


def events(space: Namespace, job: str, told: str) -> list[JsonObject]:
    """Warnings of an object that name a stranger."""
    found = space.request("GET", EVENTS.format(space.namespace))["items"]
    return [
        event
        for event in found
        if event["involvedObject"]["name"] == job and told in event["message"]
    ]


def told_once(jobs: Namespace, job: str, stranger: JsonObject) -> None:
    metadata = stranger["metadata"]
    name = f"{stranger.get('kind', 'Job')} {metadata['namespace']}/{metadata['name']} "
    eventually(lambda: events(jobs, job, name))
    (event,) = events(jobs, job, name)
    assert (event["type"], event["reason"]) == ("Warning", "NotOurs")


def told_of(jobs: Namespace, job: str, space: Namespace, make: Callable[[], JsonObject]) -> None:
    """Have a Job of another namespace name an owner until that is told of it once.

    The garbage collector may come first, and then there is nothing to tell.
    """
    for _ in range(10):
        made = make()
        name = made["metadata"]["name"]
        told = f"Job {space.namespace}/{name} "
        eventually(lambda: events(jobs, job, told) or space.find("Job", name) is None)  # noqa: B023
        if events(jobs, job, told):
            return told_once(jobs, job, made)
    raise AssertionError(f"{job} was never told of a Job in {space.namespace}")


def nothing_broke(operator: Operator, offset: int) -> None:
    """No reconcile has failed by itself; a busy machine may let a request run out of time."""
    assert not re.findall(
        r"^(?:Key|Value|Type|Attribute|Index)Error.*", operator.log_since(offset), re.M
    )


def unmoved(jobs: Namespace, operator: Operator, name: str, offset: int) -> None:
    """The job has gone on with its own run, to its own end, and nothing has failed."""
    jobs.end(name)
    body = jobs.phase(name, "Succeeded")
    assert [item["number"] for item in body["status"]["attempts"]] == [1]
    assert list(body["status"]["result"]["metrics"].values()) == ["0.5"]
    assert "m-forged" not in str(body["status"])
    assert body["status"]["counts"]["total"] == 1
    nothing_broke(operator, offset)


def claim(tenant: Tenant, job: JsonObject, run: JsonObject) -> None:
    """Write the owner of a run into a Job of one's own.

    Only now: the garbage collector soon deletes what names an owner of another namespace.
    """
    change = {"ownerReferences": run["metadata"]["ownerReferences"]}
    path = tenant.space.path("Job", job["metadata"]["name"])
    tenant.request("PATCH", path, {"metadata": change})


def test_a_job_of_another_namespace_is_no_attempt(
    jobs: Namespace, other: Namespace, stranger: Tenant, operator: Operator
) -> None:
    """It runs, it ends well, and it says so: nobody believes it."""
    offset = operator.log_size()
    run = running(jobs, "robbed")
    (given,) = jobs.children("ConfigMap", "robbed")
    stranger.create("ConfigMap", given["metadata"]["name"], data=given["data"])
    other.end_run(run["metadata"]["labels"][names.RUN_KEY], 9, outcome=FORGED)

    def ninth(job: JsonObject) -> None:
        attempt("9")(job)
        without_owner(job)

    def succeeded() -> JsonObject:
        made = submit(stranger, run, numbered(run, "9"), ninth)
        other.until("Job", made["metadata"]["name"], lambda o: o["status"].get("succeeded"))
        claim(stranger, made, run)
        return made

    def twin() -> JsonObject:
        return submit(stranger, run, run["metadata"]["name"], lambda _: None, suspend=True)

    # Before the garbage collector comes, it is the operator's to tell them apart.
    told_of(jobs, "robbed", other, succeeded)
    told_of(jobs, "robbed", other, twin)
    unmoved(jobs, operator, "robbed", offset)


def test_a_suspended_job_of_another_namespace_holds_nothing_up(
    jobs: Namespace, stranger: Tenant, operator: Operator
) -> None:
    offset = operator.log_size()
    run = running(jobs, "held-up")

    def suspended() -> JsonObject:
        made = submit(stranger, run, numbered(run, "9"), without_owner, suspend=True)
        claim(stranger, made, run)
        return made

    told_of(jobs, "held-up", stranger.space, suspended)
    unmoved(jobs, operator, "held-up", offset)


@pytest.mark.parametrize("value", [None, "x", "1x", "999999999999"])
def test_labels_that_nobody_can_read_fail_no_reconcile(
    jobs: Namespace, neighbour: Tenant, operator: Operator, value: str | None
) -> None:
    offset, name = operator.log_size(), f"odd-{value or 'none'}"
    run = running(jobs, name)
    made = submit(neighbour, run, numbered(run, "9"), attempt(value), suspend=True)
    told_once(jobs, name, made)
    # The run's own labels are anybody's, too.
    neighbour.request(
        "PATCH",
        jobs.path("Job", run["metadata"]["name"]),
        {"metadata": {"labels": {names.ATTEMPT: value}}},
    )
    unmoved(jobs, operator, name, offset)


def without_controller(job: JsonObject) -> None:
    job["metadata"]["ownerReferences"][0]["controller"] = False


def without_owner(job: JsonObject) -> None:
    del job["metadata"]["ownerReferences"]


def without_mark(job: JsonObject) -> None:
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        del metadata["annotations"][names.MARK]


@pytest.mark.parametrize(
    ("number", "change"),
    [
        ("2", lambda _: None),
        ("9", attempt("9")),
        ("999999999999", attempt("999999999999")),
        ("x", lambda _: None),
        ("2", without_controller),
        ("2", without_owner),
        ("2", without_mark),
    ],
    ids=["next", "ninth", "huge", "unreadable", "controller-false", "no-owner", "no-mark"],
)
def test_a_job_of_the_same_namespace_is_no_attempt(
    jobs: Namespace,
    neighbour: Tenant,
    operator: Operator,
    number: str,
    change: Change,
    request: pytest.FixtureRequest,
) -> None:
    """Whoever may make Jobs may not say how somebody's training ended."""
    offset = operator.log_size()
    name = f"near-{request.node.callspec.id}"
    run = running(jobs, name)
    made = submit(neighbour, run, numbered(run, number), change)
    key = run["metadata"]["labels"][names.RUN_KEY]
    jobs.end_run(key, 9, outcome=FORGED)
    told_once(jobs, name, made)
    unmoved(jobs, operator, name, offset)


def test_two_controllers_are_refused_by_the_api_server(jobs: Namespace, neighbour: Tenant) -> None:
    run = running(jobs, "two-masters")
    job = forged(run, attempt("9"))
    second = job["metadata"]["ownerReferences"][0] | {"uid": "another"}
    job["metadata"]["ownerReferences"].append(second)
    body: JsonObject = {"apiVersion": "batch/v1", "kind": "Job", **job}
    body["metadata"]["name"] = numbered(run, "9")
    status, answer = neighbour.try_request("POST", jobs.path("Job"), body)
    assert status == 422, answer
    jobs.end("two-masters")
    jobs.phase("two-masters", "Succeeded")


def test_a_name_that_is_taken_before_is_told_and_given_back(
    jobs: Namespace, neighbour: Tenant
) -> None:
    """The next attempt has a name that anybody can read off the first."""
    jobs.job("early", backoffLimit=1)
    jobs.phase("early", "Running")
    (run,) = jobs.runs("early")
    made = submit(neighbour, run, numbered(run, "2"), attempt("2"), suspend=True)
    jobs.end("early", code=1, outcome=None)
    message = jobs.waits("FineTuneJob", "early", "NameTaken")
    assert made["metadata"]["name"] in message
    jobs.delete("Job", made["metadata"]["name"])
    jobs.end("early", attempt=2)
    body = jobs.phase("early", "Succeeded")
    assert [item["number"] for item in body["status"]["attempts"]] == [1, 2]


def bare_pod(run: JsonObject, pod: JsonObject, **metadata: Any) -> JsonObject:
    """A pod as like to a run's as a user can make it."""
    spec = deepcopy(pod["spec"])
    for field in ("nodeName", "priority", "preemptionPolicy"):
        spec.pop(field, None)
    labels = dict(pod["metadata"]["labels"])
    for label in ("controller-uid", "batch.kubernetes.io/controller-uid"):
        # Else the Job controller takes it for one too many, and deletes it.
        labels.pop(label, None)
    return {
        "metadata": {"labels": labels, "annotations": {}, "ownerReferences": []} | metadata,
        "spec": spec,
    }


def test_a_pod_without_a_job_holds_nothing_up(
    jobs: Namespace, neighbour: Tenant, operator: Operator
) -> None:
    """It has all labels of the next attempt, and runs beside the first."""
    offset = operator.log_size()
    jobs.job("shadowed", backoffLimit=1)
    jobs.phase("shadowed", "Running")
    (run,) = jobs.runs("shadowed")
    (pod,) = jobs.children("Pod", "shadowed")
    given = bare_pod(run, pod)
    owner = {names.OWNER_NAME: "shadowed"}
    given["metadata"]["annotations"] = owner
    given["metadata"]["labels"]["batch.kubernetes.io/job-name"] = numbered(run, "7")
    made = neighbour.create("Pod", "shadow", given["spec"], metadata=given["metadata"])
    told_once(jobs, "shadowed", made)
    jobs.end("shadowed", code=1, outcome=None)
    jobs.end("shadowed", attempt=2)
    body = jobs.phase("shadowed", "Succeeded")
    assert [item["number"] for item in body["status"]["attempts"]] == [1, 2]
    # It is left to whoever has made it.
    assert jobs.find("Pod", "shadow")
    neighbour.request("DELETE", jobs.path("Pod", "shadow"))
    nothing_broke(operator, offset)


def test_the_last_words_of_a_foreign_pod_are_not_believed(
    jobs: Namespace, other: Namespace, stranger: Tenant, operator: Operator
) -> None:
    """It names the run's Job as its controller, from another namespace."""
    offset = operator.log_size()
    run = running(jobs, "spoken-for")
    (pod,) = jobs.children("Pod", "spoken-for")
    given = bare_pod(run, pod, ownerReferences=deepcopy(pod["metadata"]["ownerReferences"]))
    given["metadata"]["annotations"] = dict(pod["metadata"]["annotations"])
    other.end_run(run["metadata"]["labels"][names.RUN_KEY], 1, outcome=FORGED)
    made = stranger.create("Pod", "voice", given["spec"], metadata=given["metadata"])
    told_once(jobs, "spoken-for", made)
    unmoved(jobs, operator, "spoken-for", offset)


def test_strangers_are_told_of_once_whoever_operates(
    jobs: Namespace, neighbour: Tenant, operator: Operator
) -> None:
    run = running(jobs, "twice-told")
    made = submit(neighbour, run, numbered(run, "9"), attempt("9"), suspend=True)
    told_once(jobs, "twice-told", made)
    with operator.stopped():
        pass
    jobs.patch("FineTuneJob", "twice-told", {"spec": {"ttlSecondsAfterFinished": 3600}})
    jobs.until(
        "FineTuneJob",
        "twice-told",
        lambda o: o["status"]["observedGeneration"] == o["metadata"]["generation"],
    )
    told_once(jobs, "twice-told", made)
    jobs.end("twice-told")
    jobs.phase("twice-told", "Succeeded")


# --- what a run is given


def with_other_content(made: JsonObject, _: Namespace) -> None:
    made["data"]["plan.json"] = made["data"]["plan.json"].replace("base", "basis")


def changeable(made: JsonObject, _: Namespace) -> None:
    made["immutable"] = False


def somebody_elses(made: JsonObject, jobs: Namespace) -> None:
    uid = jobs.get("Model", "base")["metadata"]["uid"]
    made["metadata"]["ownerReferences"][0] |= {"kind": "Model", "name": "base", "uid": uid}


def without_owner_and_mark(made: JsonObject, _: Namespace) -> None:
    made["metadata"] = {"labels": made["metadata"]["labels"]}


def not_controlled(made: JsonObject, _: Namespace) -> None:
    made["metadata"]["ownerReferences"][0]["controller"] = False


@pytest.mark.parametrize(
    "change",
    [with_other_content, changeable, somebody_elses, not_controlled, without_owner_and_mark],
)
def test_a_plan_that_somebody_has_made_is_not_taken_for_ours(
    jobs: Namespace, neighbour: Tenant, change: Callable[[JsonObject, Namespace], None]
) -> None:
    name = f"planned-{change.__name__.replace('_', '-')}"
    jobs.job(name, backoffLimit=1)
    jobs.phase(name, "Running")
    (given,) = jobs.children("ConfigMap", name)
    place = given["metadata"]["name"]
    neighbour.request("DELETE", jobs.path("ConfigMap", place))
    eventually(lambda: jobs.find("ConfigMap", place) is None)
    kept = ("labels", "annotations", "ownerReferences")
    metadata = {key: given["metadata"][key] for key in kept}
    copied = deepcopy({"metadata": metadata, "data": given["data"], "immutable": True})
    change(copied, jobs)
    neighbour.create("ConfigMap", place, **copied)
    jobs.end(name, code=1, outcome=None)
    message = jobs.waits("FineTuneJob", name, "NameTaken")
    assert f"ConfigMap {jobs.namespace}/{place}" in message
    assert len(jobs.runs(name)) == 1
    neighbour.request("DELETE", jobs.path("ConfigMap", place))
    jobs.end(name, attempt=2)
    jobs.phase(name, "Succeeded")


def test_a_service_that_leads_elsewhere_is_not_taken_for_ours(
    jobs: Namespace, neighbour: Tenant
) -> None:
    jobs.job("led-astray", backoffLimit=1, workers=2)
    jobs.phase("led-astray", "Running")
    service = names.service_name(jobs.run_key("led-astray"))
    neighbour.request(
        "PATCH", jobs.path("Service", service), {"spec": {"selector": {"app": "theirs"}}}
    )
    jobs.end("led-astray", code=1, outcome=None)
    message = jobs.waits("FineTuneJob", "led-astray", "NameTaken")
    assert f"Service {jobs.namespace}/{service}" in message
    neighbour.request("DELETE", jobs.path("Service", service))
    jobs.end("led-astray", attempt=2)
    jobs.phase("led-astray", "Succeeded")


def test_other_kinds_with_runs_believe_no_strangers_either(
    jobs: Namespace, neighbour: Tenant, operator: Operator
) -> None:
    offset = operator.log_size()
    subjects = Subjects(jobs, jobs.scripted_target("strangers"))
    for kind in KINDS:
        subjects.make(kind, "approached")
    pods = {kind: subjects.running(kind, "approached") for kind in KINDS}
    for kind in KINDS:
        (run,) = jobs.runs("approached", kind)
        made = submit(neighbour, run, numbered(run, "9"), attempt("9"), suspend=True)
        told_once(jobs, "approached", made)
        subjects.end(kind, pods[kind])
    for kind in KINDS:
        subjects.done(kind, "approached")
    nothing_broke(operator, offset)


# --- run keys


def test_a_run_key_of_another_job_is_not_honoured(
    jobs: Namespace, stranger: Tenant, neighbour: Tenant
) -> None:
    """Neither from the next namespace nor by the neighbour's job of another name."""
    run = running(jobs, "owner-of-key")
    key = run["metadata"]["labels"][names.RUN_KEY]
    copied = {"metadata": {"annotations": {names.RUN_KEY: key}}}
    references = {"modelRef": {"name": "base"}, "datasetRef": {"name": "rows"}}
    references |= {"promptRef": {"name": "ask"}}
    neighbour.create("FineTuneJob", "claims-key", references, **copied)
    body = jobs.phase("claims-key", "Running")
    assert body["status"]["runKey"] != key
    assert annotations(body)[names.RUN_KEY] == body["status"]["runKey"]
    # It waits there for inputs; nothing of the other job's is stopped or deleted with it.
    stranger.create("FineTuneJob", "owner-of-key", references, **copied)
    stranger.space.until("FineTuneJob", "owner-of-key", lambda o: condition(o, "Ready")[0])
    stranger.request("DELETE", stranger.space.path("FineTuneJob", "owner-of-key"))
    eventually(lambda: stranger.space.find("FineTuneJob", "owner-of-key") is None)
    for name in ("owner-of-key", "claims-key"):
        jobs.end(name)
        assert len(jobs.phase(name, "Succeeded")["status"]["attempts"]) == 1


def test_the_keys_are_kept_and_restart_with_the_operator(
    jobs: Namespace, stranger: Tenant, operator: Operator
) -> None:
    path = "/api/v1/namespaces/kubetune-system/secrets/kubetune-keys"
    before = jobs.request("GET", path)
    status, _ = stranger.try_request("GET", path)
    assert status == 403
    running(jobs, "over-a-restart")
    key = jobs.run_key("over-a-restart")
    with operator.crashed():
        pass
    jobs.end("over-a-restart")
    body = jobs.phase("over-a-restart", "Succeeded")
    assert body["status"]["runKey"] == key
    assert body["status"]["counts"]["total"] == 1
    after = jobs.request("GET", path)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]

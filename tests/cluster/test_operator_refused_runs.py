"""Whoever refuses a run in the cluster, and of whichever object: it is said, and tried again."""

import contextlib
from collections.abc import Generator, Iterator

import pytest
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace, condition
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import KINDS, Subjects
from tests.cluster.support import eventually
from tests.cluster.webhook import MESSAGE, PATH, Webhook

pytestmark = pytest.mark.cluster

ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/kubetune"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
CONTAINER: JsonObject = {"name": "c", "image": "i"}
PROBE: JsonObject = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "probe"},
    "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [CONTAINER]}}},
}


@pytest.fixture(scope="module", autouse=True)
def installed(cluster: LocalCluster, operator_process: Operator) -> Iterator[None]:
    """The operator with the rights of an installed one."""
    kubeconfig = cluster.home / "pki" / "operator.kubeconfig"
    operator_process.start(environment={"KUBECONFIG": str(kubeconfig)})
    yield
    operator_process.stop()


@pytest.fixture(scope="module")
def subjects(module_space: Namespace) -> Subjects:
    return Subjects(module_space, module_space.scripted_target("all-scripted"))


def answer_to_a_job(space: Namespace) -> tuple[int, str]:
    """What the API server says of a Job now; none is made."""
    status, answer = space.try_request("POST", space.path("Job") + "?dryRun=All", PROBE)
    return status, answer.get("message", "")


@contextlib.contextmanager
def hooked(space: Namespace, webhook: Webhook) -> Generator[None]:
    """The API server asks the webhook."""
    name = f"{space.namespace}-closed"
    space.request("POST", PATH, webhook.configuration(name, space.namespace))
    try:
        eventually(lambda: answer_to_a_job(space)[0] >= 400)
        yield
    finally:
        space.request("DELETE", f"{PATH}/{name}")
        eventually(lambda: answer_to_a_job(space)[0] < 300)


@contextlib.contextmanager
def without_right(space: Namespace, resource: str, verb: str) -> Generator[None]:
    """The operator's role lacks a verb."""
    role = space.request("GET", ROLE)
    rules = [
        rule | {"verbs": [given for given in rule["verbs"] if given != verb]}
        if resource in rule["resources"]
        else rule
        for rule in role["rules"]
    ]
    group = "batch" if resource == "jobs" else "kubetune.io"

    def allowed() -> bool:
        attributes = {"group": group, "resource": resource, "verb": verb}
        attributes["namespace"] = space.namespace
        spec = {"user": "kubetune-operator", "resourceAttributes": attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        return space.request("POST", REVIEWS, review | {"spec": spec})["status"]["allowed"]

    space.request("PATCH", ROLE, {"rules": rules})
    try:
        eventually(lambda: not allowed())
        yield
    finally:
        space.request("PATCH", ROLE, {"rules": role["rules"]})
        eventually(allowed)


@contextlib.contextmanager
def no_room(space: Namespace, hard: str) -> Generator[None]:
    """A ResourceQuota of nothing."""
    path = f"/api/v1/namespaces/{space.namespace}/resourcequotas"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    space.request("POST", path, quota | {"spec": {"hard": {hard: "0"}}})
    try:
        # Before it is counted it refuses everything, without saying what is exceeded.
        eventually(lambda: hard in space.request("GET", f"{path}/none")["status"].get("hard", {}))
        yield
    finally:
        space.request("DELETE", f"{path}/none")


def waits_for(space: Namespace, kind: str, name: str, reason: str, told: str) -> None:
    """Wait until an object says why it waits, and that nobody but the cluster's has to help."""
    assert told in space.waits(kind, name, reason)
    body = space.get(kind, name)
    assert condition(body, "Stalled")[0] == ""
    assert condition(body, "Reconciling")[0] == "True"


def all_wait(space: Namespace, subjects: Subjects, name: str, reason: str, told: str) -> None:
    """Make an object of each kind, and see each wait."""
    for kind in KINDS:
        subjects.make(kind, name)
    for kind in KINDS:
        waits_for(space, kind, name, reason, told)


def go_on(subjects: Subjects, name: str, seconds: float = 60) -> None:
    for kind in KINDS:
        subjects.end(kind, subjects.running(kind, name, seconds=seconds))
    for kind in KINDS:
        subjects.done(kind, name)


def test_a_webhook_that_refuses(cluster: LocalCluster, jobs: Namespace, subjects: Subjects) -> None:
    with Webhook(cluster) as webhook, hooked(jobs, webhook):
        all_wait(jobs, subjects, "closed", "TargetRefused", MESSAGE)
        names = [f"{kind}/closed" for kind in KINDS]
        eventually(lambda: all(webhook.denied[name] >= 2 for name in names))
        versions = [jobs.get(kind, "closed")["metadata"]["resourceVersion"] for kind in KINDS]
        asked = dict(webhook.denied)
        eventually(lambda: all(webhook.denied[name] > asked[name] for name in names))
        assert [
            jobs.get(kind, "closed")["metadata"]["resourceVersion"] for kind in KINDS
        ] == versions, "nothing has changed"
    go_on(subjects, "closed")


def test_a_webhook_that_is_away(cluster: LocalCluster, jobs: Namespace, subjects: Subjects) -> None:
    with Webhook(cluster) as webhook, hooked(jobs, webhook):
        webhook.go()
        all_wait(jobs, subjects, "unanswered", "TargetRefused", "failed calling webhook")
    go_on(subjects, "unanswered")


def test_the_operator_may_make_no_jobs(jobs: Namespace, subjects: Subjects) -> None:
    with without_right(jobs, "jobs", "create"):
        all_wait(jobs, subjects, "powerless", "TargetRefused", "cannot create resource")
    go_on(subjects, "powerless")


def test_the_operator_may_not_change_jobs_of_its_own(jobs: Namespace, subjects: Subjects) -> None:
    with without_right(jobs, "finetunejobs", "patch"):
        subjects.make("FineTuneJob", "untouchable")
        waits_for(jobs, "FineTuneJob", "untouchable", "TargetRefused", "cannot patch resource")
    subjects.end("FineTuneJob", subjects.running("FineTuneJob", "untouchable"))
    subjects.done("FineTuneJob", "untouchable")


def test_a_quota_on_jobs(jobs: Namespace, subjects: Subjects) -> None:
    with no_room(jobs, "count/jobs.batch"):
        all_wait(jobs, subjects, "crowded", "QuotaExceeded", "none")
    go_on(subjects, "crowded")


def test_a_quota_on_pods(jobs: Namespace, subjects: Subjects) -> None:
    with no_room(jobs, "pods"):
        all_wait(jobs, subjects, "cramped", "QuotaExceeded", "exceeded quota: none")
    # Kubernetes' Job controller asks again after a minute at the latest.
    go_on(subjects, "cramped", seconds=120)


def test_a_quota_on_config_maps(jobs: Namespace, subjects: Subjects) -> None:
    with no_room(jobs, "count/configmaps"):
        all_wait(jobs, subjects, "unplanned", "QuotaExceeded", "none")
    go_on(subjects, "unplanned")


def test_a_limit_range(jobs: Namespace, subjects: Subjects) -> None:
    path = f"/api/v1/namespaces/{jobs.namespace}/limitranges"
    limit = {"type": "Container", "max": {"memory": "1Mi"}}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "tiny"}}
    jobs.request("POST", path, body | {"spec": {"limits": [limit]}})
    all_wait(jobs, subjects, "too-large", "PodsRefused", "maximum memory usage per Container")
    jobs.request("DELETE", f"{path}/tiny")
    # Kubernetes' Job controller asks again after a minute at the latest.
    go_on(subjects, "too-large", seconds=120)


def test_a_service_account_that_is_missing(jobs: Namespace, subjects: Subjects) -> None:
    nobody = Subjects(jobs, jobs.scripted_target("nobody", serviceAccountName="nobody"))
    all_wait(jobs, nobody, "nobody", "ServiceAccountMissing", "ServiceAccount nobody")
    metadata = {"name": "nobody", "labels": {USE_LABEL: "target"}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    jobs.request("POST", f"/api/v1/namespaces/{jobs.namespace}/serviceaccounts", account)
    go_on(subjects, "nobody", seconds=120)

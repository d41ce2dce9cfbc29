"""What people may do who have view, edit or admin in a namespace, tried as those users."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kubetune.api.kinds.table import KINDS, Kind
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.errors import LocalClusterError

from tests.cluster.api_client import ApiClient
from tests.cluster.support import eventually

ROLES = Path(__file__).parents[2] / "manifests" / "install" / "people-roles.yaml"
EXAMPLE = Path(__file__).parents[2] / "manifests" / "examples" / "quickstart"
THEIRS, OTHERS = "people-of-a", "people-of-b"
NAMESPACED = [kind for kind in KINDS if kind.namespaced]
CLUSTER_WIDE = [kind for kind in KINDS if not kind.namespaced]

pytestmark = pytest.mark.cluster


Permits = Callable[..., bool]


@pytest.fixture(scope="module")
def may(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Permits]:
    """Whether a user may do something, as the API server would judge it."""
    client = ApiClient(cluster.kubeconfig, tmp_path_factory.mktemp("reviews"))

    def ask(user: str, verb: str, plural: str, namespace: str | None = THEIRS) -> bool:
        resource, _, subresource = plural.partition("/")
        attributes = {"verb": verb, "group": "kubetune.io", "resource": resource}
        attributes |= {"namespace": namespace} if namespace else {}
        attributes |= {"subresource": subresource} if subresource else {}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        status, answer = client.request("POST", path, review)
        assert status == 201, answer
        return answer["status"]["allowed"]

    yield ask
    client.close()


@pytest.fixture(scope="module")
def people(cluster: LocalCluster, may: Permits) -> Iterator[LocalCluster]:
    """Users view, edit and admin, each with Kubernetes' role of that name in one namespace."""
    cluster.kubectl("apply", "--server-side", "-f", str(ROLES))
    for name in (THEIRS, OTHERS):
        cluster.kubectl("create", "namespace", name)
    for role in ("view", "edit", "admin"):
        cluster.kubectl(
            *("create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}"),
            *("--namespace", THEIRS),
        )
    # Kubernetes adds the rules up some time after.
    eventually(lambda: may("admin", "create", "computetargets"))
    eventually(lambda: may("edit", "create", "finetunejobs"))
    eventually(lambda: may("view", "list", "finetunejobs"))
    yield cluster
    for name in (THEIRS, OTHERS):
        cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("delete", "-f", str(ROLES))


@pytest.mark.parametrize("user", ["view", "edit", "admin"])
@pytest.mark.parametrize("kind", NAMESPACED, ids=lambda kind: kind.plural)
@pytest.mark.usefixtures("people")
def test_what_a_user_may_do_in_a_namespace(may: Permits, user: str, kind: Kind) -> None:
    writes = user == "admin" or (user == "edit" and kind.kind != "ComputeTarget")
    for verb in ("get", "list", "watch"):
        assert may(user, verb, kind.plural)
        assert not may(user, verb, kind.plural, OTHERS)
    for verb in ("create", "update", "patch", "delete"):
        assert may(user, verb, kind.plural) == writes
        assert not may(user, verb, kind.plural, OTHERS)
    # What the operator says of an object is its own.
    assert not may(user, "patch", f"{kind.plural}/status")


@pytest.mark.parametrize("kind", CLUSTER_WIDE, ids=lambda kind: kind.plural)
@pytest.mark.usefixtures("people")
def test_nobody_of_a_namespace_writes_what_is_for_all(may: Permits, kind: Kind) -> None:
    for user in ("view", "edit", "admin"):
        for verb in ("create", "update", "patch", "delete"):
            assert not may(user, verb, kind.plural, None)


def test_a_user_applies_the_quickstart_but_no_target(people: LocalCluster) -> None:
    files = sorted(EXAMPLE.glob("[2-9]0-*.yaml"))
    example = "---\n".join(file.read_text() for file in files)
    example = example.replace("namespace: kubetune-quickstart", f"namespace: {THEIRS}")
    applied = people.kubectl("apply", "--dry-run=server", "--as=edit", "-f", "-", input=example)
    assert "finetunejob.kubetune.io/" in applied
    target = {
        "apiVersion": "kubetune.io/v1alpha1",
        "kind": "ComputeTarget",
        "metadata": {"name": "mine", "namespace": THEIRS},
        "spec": {
            "kubernetes": {"image": "kubetune/runner:0.1.0"},
            "tracking": {"uri": "http://mlflow.mlflow.svc:5000"},
        },
    }
    create = ("create", "--dry-run=server", "-f", "-")
    with pytest.raises(LocalClusterError, match=r'User "edit" cannot create.*computetargets'):
        people.kubectl(*create, "--as=edit", input=json.dumps(target))
    people.kubectl(*create, "--as=admin", input=json.dumps(target))

"""Secrets, claims and service accounts are used as far as their owners say.

Each story is told by somebody who may write kubetune's kinds and nothing else, against the real API
server: what such a user names belongs to others.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubetune.api import API_VERSION, JsonObject
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.errors import LocalClusterError

from tests.cluster.listener import Listener
from tests.cluster.namespace import Namespace, condition
from tests.cluster.support import eventually
from tests.cluster.tenant import OF_KUBETUNE_ALONE, Tenant

pytestmark = pytest.mark.cluster

POLICY = Path(__file__).parents[2] / "manifests" / "install" / "targets-policy.yaml"
PASSWORD = "hunter2-of-the-database"
THEIRS = "${THEIRS}"
"""In a spec: the name of what belongs to somebody else."""
ROW = {"volume": {"claimName": THEIRS, "glob": "rows.jsonl", "format": "jsonl"}}
TOKEN = {"tokenSecretRef": {"name": THEIRS, "key": "password"}}
JOB: JsonObject = {
    "modelRef": {"name": "base"},
    "datasetRef": {"name": "rows"},
    "promptRef": {"name": "ask"},
    "hyperparameters": {"maxSteps": 1},
}
OBJECTS: dict[str, tuple[str, str, str, JsonObject]] = {
    "hub token of a Dataset": (
        "secret",
        "hub",
        "Dataset",
        {"source": {"huggingFace": {"repo": "attacker/rows", **TOKEN}}},
    ),
    "hub token of a Model": (
        "secret",
        "hub",
        "Model",
        {"source": {"huggingFace": {"repo": "attacker/base", **TOKEN}}},
    ),
    "claim of a Dataset": ("persistentvolumeclaim", "data", "Dataset", {"source": ROW}),
    "claim of a Model": (
        "persistentvolumeclaim",
        "data",
        "Model",
        {"source": {"volume": {"claimName": THEIRS, "path": "."}}},
    ),
    "claim for checkpoints": (
        "persistentvolumeclaim",
        "checkpoint",
        "FineTuneJob",
        JOB | {"checkpoint": {"claimName": THEIRS, "everySteps": 1}},
    ),
}
"""What is named, for which use, and by what."""
TARGETS: dict[str, tuple[str, JsonObject]] = {
    "variable": (
        "secret",
        {"env": [{"name": "P", "valueFrom": {"secretKeyRef": TOKEN["tokenSecretRef"]}}]},
    ),
    "variables": ("secret", {"envFrom": [{"secretRef": {"name": THEIRS}}]}),
    "registry": ("secret", {"imagePullSecrets": [{"name": THEIRS}]}),
    "volume": (
        "persistentvolumeclaim",
        {"volumes": [{"name": "p", "claimName": THEIRS, "mountPath": "/payroll"}]},
    ),
    "cache": ("persistentvolumeclaim", {"modelCache": {"claimName": THEIRS}}),
    "account": ("serviceaccount", {"serviceAccountName": THEIRS}),
}


@pytest.fixture
def listener() -> Iterator[Listener]:
    """What a thief has ready."""
    server = Listener()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def thief(module_space: Namespace) -> Iterator[Tenant]:
    """Somebody who may write kubetune's kinds, and read no Secret."""
    tenant = Tenant(module_space, "thief", OF_KUBETUNE_ALONE)
    assert tenant.try_request("GET", module_space.path("Secret", "any"))[0] == 403
    yield tenant
    tenant.close()


class Belongings:
    """A Secret, a claim and a service account of one name that are nobody's business."""

    def __init__(self, space: Namespace, name: str) -> None:
        self.space = space
        self.name = name
        own = {"password": PASSWORD, "MLFLOW_TRACKING_TOKEN": PASSWORD}
        space.create("Secret", name, stringData=own)
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        space.create("PersistentVolumeClaim", name, spec | {"storageClassName": ""})
        space.create("ServiceAccount", name)

    def named_in(self, spec: JsonObject) -> JsonObject:
        """A spec that names them."""
        return json.loads(json.dumps(spec).replace(THEIRS, self.name))

    def open(self, kind: str, uses: str | None) -> None:
        """What an owner does."""
        path = f"/api/v1/namespaces/{self.space.namespace}/{kind}s/{self.name}"
        self.space.request("PATCH", path, {"metadata": {"labels": {USE_LABEL: uses}}})

    def refused(self, kind: str, name: str, what: str, use: str, uses: str = "") -> None:
        """An object waits for consent, says how to give it, and nothing was started for it."""
        overwrite = " --overwrite" if uses else ""
        label = f"{USE_LABEL}={uses}{use}{overwrite}"
        command = f"kubectl label {what} {self.name} -n {self.space.namespace} {label}"
        self.space.waits(kind, name, "ConsentMissing")
        body = self.space.until(kind, name, lambda body: command in condition(body, "Ready")[2])
        assert PASSWORD not in str(body)
        assert not self.space.children("Job", name, kind)
        assert not self.space.children("ConfigMap", name, kind)

    def started(self, kind: str, name: str) -> JsonObject:
        """The pod of its first run, by its Job, once it has one; nobody touches the object."""
        eventually(lambda: self.space.children("Job", name, kind), 60)
        (job,) = self.space.children("Job", name, kind)
        return job["spec"]["template"]["spec"]


@pytest.fixture
def theirs(jobs: Namespace, request: pytest.FixtureRequest) -> Belongings:
    """Of their own for each test: consent that was seen counts for some seconds."""
    return Belongings(jobs, f"theirs-{zlib.crc32(request.node.name.encode()):x}")


@pytest.mark.parametrize("what", OBJECTS)
def test_what_an_object_names_is_used_when_its_owner_says(
    theirs: Belongings, thief: Tenant, what: str
) -> None:
    named, use, kind, spec = OBJECTS[what]
    name = what.replace(" ", "-").lower()
    thief.create(kind, name, theirs.named_in(spec))
    theirs.refused(kind, name, named, use)
    # For something else doesn't count.
    other = {"hub": "judge", "data": "checkpoint", "checkpoint": "data"}[use]
    theirs.open(named, other)
    theirs.refused(kind, name, named, use, f"{other}.")
    generation = theirs.space.get(kind, name)["metadata"]["generation"]
    theirs.open(named, f"{other}.{use}")
    pod = theirs.started(kind, name)
    volumes = [
        volume["name"]
        for volume in pod["volumes"]
        if (volume.get("persistentVolumeClaim") or {}).get("claimName") == theirs.name
    ]
    mounts = [
        mount.get("readOnly", False)
        for mount in pod["containers"][0]["volumeMounts"]
        if mount["name"] in volumes
    ]
    assert mounts == ([] if use == "hub" else [use == "data"])
    assert theirs.space.get(kind, name)["metadata"]["generation"] == generation
    theirs.space.delete(kind, name)


def test_a_profile_names_no_claim_that_is_closed(theirs: Belongings, thief: Tenant) -> None:
    thief.create("TuningProfile", "greedy", {"checkpoint": {"claimName": theirs.name}})
    thief.create("FineTuneJob", "by-profile", JOB | {"profileRef": {"name": "greedy"}})
    theirs.refused("FineTuneJob", "by-profile", "persistentvolumeclaim", "checkpoint")


def test_a_judge_is_sent_no_key_that_is_closed(
    theirs: Belongings, thief: Tenant, listener: Listener
) -> None:
    judge = {"name": "mine", "model": "any", "baseUrl": listener.url}
    spec = {
        "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
        "datasetRef": {"name": "rows"},
        "promptRef": {"name": "ask"},
        "metrics": ["mine"],
        "judges": [judge | {"apiKeySecretRef": {"name": theirs.name, "key": "password"}}],
    }
    theirs.open("secret", "hub.tracking.target")
    thief.create("Evaluation", "judged", spec)
    theirs.refused("Evaluation", "judged", "secret", "judge", "hub.tracking.target.")
    assert not listener.heard
    theirs.open("secret", "judge")
    assert theirs.name in str(theirs.started("Evaluation", "judged")["containers"][0]["env"])
    theirs.space.delete("Evaluation", "judged")


@pytest.mark.parametrize("what", TARGETS)
@pytest.mark.parametrize("kind", ["ComputeTarget", "ClusterComputeTarget"])
def test_what_a_target_names_is_used_when_its_owner_says(
    theirs: Belongings, thief: Tenant, kind: str, what: str
) -> None:
    named, kubernetes = TARGETS[what]
    space = theirs.space
    name = f"{space.namespace}-{what}-{kind[:7]}".lower()
    spec = space.target(**theirs.named_in(kubernetes))
    if kind == "ComputeTarget":
        thief.create(kind, name, spec)
    else:
        space.create(kind, name, spec)
    try:
        space.ready(kind, name)
        thief.create("FineTuneJob", name, JOB | {"computeTargetRef": {"kind": kind, "name": name}})
        theirs.refused("FineTuneJob", name, named, "target")
        theirs.open(named, "target")
        assert theirs.name in str(theirs.started("FineTuneJob", name))
        space.delete("FineTuneJob", name)
    finally:
        space.delete(kind, name)


def test_a_tracking_server_is_sent_no_credentials_that_are_closed(
    theirs: Belongings, thief: Tenant, listener: Listener
) -> None:
    spec = theirs.space.target(listener.url)
    spec["tracking"]["credentialsSecretRef"] = {"name": theirs.name}
    thief.create("ComputeTarget", "mine", spec)
    theirs.refused("ComputeTarget", "mine", "secret", "tracking")
    assert not listener.heard
    theirs.open("secret", "tracking")
    # Now it is the owner who has said so.
    eventually(lambda: any(PASSWORD in heard for heard in listener.heard), 60)
    theirs.space.delete("ComputeTarget", "mine")


def test_what_the_targets_admin_lists_needs_no_label(theirs: Belongings, thief: Tenant) -> None:
    space = theirs.space
    spec = space.target() | {
        "allowed": {
            "secrets": [{"name": theirs.name, "uses": ["hub"]}],
            "claims": [{"name": theirs.name, "uses": ["checkpoint"]}],
        }
    }
    space.create("ComputeTarget", "generous", spec)
    space.ready("ComputeTarget", "generous")
    there = {"computeTargetRef": {"kind": "ComputeTarget", "name": "generous"}}
    hub = {"source": {"huggingFace": {"repo": "any/listed", **TOKEN}}}
    thief.create("Dataset", "listed", theirs.named_in(hub) | there)
    checkpoint = {"checkpoint": {"claimName": theirs.name}}
    thief.create("FineTuneJob", "listed", JOB | there | checkpoint)
    assert theirs.name in str(theirs.started("Dataset", "listed"))
    assert theirs.name in str(theirs.started("FineTuneJob", "listed"))
    # For that use alone.
    thief.create("Dataset", "unlisted", theirs.named_in({"source": ROW}) | there)
    theirs.refused("Dataset", "unlisted", "persistentvolumeclaim", "data")
    for kind in ("FineTuneJob", "Dataset"):
        space.delete(kind, "listed")


@pytest.fixture
def policy(cluster: LocalCluster) -> Iterator[None]:
    """The policy on targets, under a name of its own beside that of an installation."""
    text = POLICY.read_text().replace("kubetune-targets", "kubetune-targets-here")
    cluster.kubectl("apply", "--server-side", "-f", "-", input=text)
    yield
    cluster.kubectl("delete", "-f", "-", input=text)


def test_only_owners_list_what_needs_no_label(
    theirs: Belongings, thief: Tenant, policy: None
) -> None:
    space = theirs.space

    def lists(what: str, uses: list[str]) -> JsonObject:
        return space.target() | {"allowed": {what: [{"name": theirs.name, "uses": uses}]}}

    def refusal(name: str, spec: JsonObject) -> str:
        body: JsonObject = {
            "apiVersion": API_VERSION,
            "kind": "ComputeTarget",
            "metadata": {"name": name},
            "spec": spec,
        }
        status, answer = thief.try_request("POST", space.path("ComputeTarget"), body)
        if status < 300:
            space.delete("ComputeTarget", name)
            return ""
        return answer["message"]

    wanted = "takes the right to patch Secrets"
    # A policy acts a moment after it is made.
    eventually(lambda: wanted in refusal("greedy", lists("secrets", ["judge"])))
    assert "patch PersistentVolumeClaims" in refusal("greedy", lists("claims", ["data"]))
    thief.create("ComputeTarget", "modest", space.target())
    path = space.path("ComputeTarget", "modest")
    change = {"spec": {"allowed": lists("secrets", ["judge"])["allowed"]}}
    status, answer = thief.try_request("PATCH", path, change)
    assert status >= 400
    assert wanted in answer["message"]
    # An owner may, and whoever changes something else of it later.
    space.patch("ComputeTarget", "modest", change)
    thief.request("PATCH", path, {"metadata": {"annotations": {"who": "thief"}}})
    space.delete("ComputeTarget", "modest")


def test_consent_that_is_taken_back_starts_nothing_new(theirs: Belongings, thief: Tenant) -> None:
    space, checkpoint = theirs.space, {"checkpoint": {"claimName": theirs.name}}
    theirs.open("persistentvolumeclaim", "checkpoint")
    thief.create("FineTuneJob", "again", JOB | checkpoint)
    theirs.started("FineTuneJob", "again")
    space.patch("FineTuneJob", "again", {"spec": {"suspend": True}})
    space.phase("again", "Suspended")
    theirs.open("persistentvolumeclaim", None)
    # What it was asked for a moment ago still counts: another one is told, then this one, too.
    thief.create("Dataset", "probe", theirs.named_in({"source": ROW}))
    theirs.refused("Dataset", "probe", "persistentvolumeclaim", "data")
    space.patch("FineTuneJob", "again", {"spec": {"suspend": False}})
    message = space.waits("FineTuneJob", "again", "ConsentMissing")
    assert f"{theirs.name} -n {space.namespace} {USE_LABEL}=checkpoint" in message


def test_what_is_missing_is_waited_for(jobs: Namespace, theirs: Belongings, thief: Tenant) -> None:
    source = {"volume": {"claimName": "later", "glob": "*", "format": "jsonl"}}
    thief.create("Dataset", "early", {"source": source})
    message = jobs.waits("Dataset", "early", "ClaimMissing")
    assert f"PersistentVolumeClaim later in namespace {jobs.namespace}" in message
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    labels = {USE_LABEL: "data"}
    jobs.create("PersistentVolumeClaim", "later", spec | {"storageClassName": ""}, labels=labels)
    theirs.started("Dataset", "early")


def test_the_operator_may_list_nothing_of_it(cluster: LocalCluster) -> None:
    user = "--as=kubetune-operator"
    for what in ("secrets", "persistentvolumeclaims", "serviceaccounts"):
        assert cluster.kubectl("auth", "can-i", "get", what, "-A", user).strip() == "yes"
        for verb in ("list", "watch", "create", "update", "delete"):
            with pytest.raises(LocalClusterError):
                cluster.kubectl("auth", "can-i", verb, what, "-A", user)

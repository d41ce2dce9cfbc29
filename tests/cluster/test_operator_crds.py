"""CRDs that go and come: their objects with them, and nothing else needs a touch."""

import threading
from collections.abc import Iterator

import pytest
from kubetune.api.kinds.table import KINDS
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.crds import Crds
from tests.cluster.namespace import DEFAULT_TARGET, Namespace, condition
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

SECONDS = 20
REASONS = {
    "Dataset": (
        {"source": {"configMap": {"name": "no", "key": "a.csv", "format": "csv"}}},
        "ConfigMapMissing",
    ),
    "Model": ({"source": {"fineTuneJob": {"name": "absent"}}}, "FineTuneJobMissing"),
    "PromptTemplate": (
        {"prompt": "{q}", "completion": "{a}", "datasetRef": {"name": "absent"}},
        "DatasetMissing",
    ),
    "FineTuneJob": (
        {"modelRef": {"name": "absent"}, "datasetRef": {"name": "absent"}},
        "ModelMissing",
    ),
    "Evaluation": (
        {
            "candidates": [{"name": "a", "modelRef": {"name": "absent"}}],
            "datasetRef": {"name": "absent"},
        },
        "DatasetMissing",
    ),
}


@pytest.fixture
def crds(cluster: LocalCluster) -> Iterator[Crds]:
    crds = Crds(cluster)
    yield crds
    # The target of the cluster, which other tests use, went with its kind.
    cluster.up()


def make(space: Namespace, kind: str, name: str) -> None:
    """Make an object as soon as the API server takes it."""
    eventually(lambda: space.created(kind, name, REASONS[kind][0]), SECONDS)


def looked_at(space: Namespace, kind: str, name: str) -> None:
    """Wait until the operator has said why an object waits."""
    space.waits(kind, name, REASONS[kind][1], SECONDS)


@pytest.mark.parametrize("kind", sorted(REASONS))
def test_one_crd_deleted_and_made_again(
    space: Namespace, crds: Crds, operator: Operator, kind: str
):
    make(space, kind, "before")
    looked_at(space, kind, "before")
    crds.delete(kind)
    eventually(lambda: operator.known(kind) == 0, SECONDS)
    crds.apply(kind)
    make(space, kind, "after")
    looked_at(space, kind, "after")


def test_all_crds_deleted_and_made_again(space: Namespace, crds: Crds, operator: Operator):
    space.inputs()
    space.job("running")
    space.phase("running", "Running")
    crds.delete()
    assert space.objects("Job") == [], "the finalizer was taken off when the run had ended"
    eventually(lambda: sum(operator.known(kind.kind) for kind in KINDS) == 0, SECONDS)
    crds.apply()
    for kind in REASONS:
        make(space, kind, "after")
    for kind in REASONS:
        looked_at(space, kind, "after")
    space.create("ComputeTarget", "scripted", space.target(), **DEFAULT_TARGET)
    space.inputs()
    space.job("running")
    space.end("running")
    space.phase("running", "Succeeded")


def test_crds_that_are_replaced_at_once(space: Namespace, crds: Crds, operator: Operator):
    """Deleted and applied as fast as the API server does it, so that nobody sees them away."""
    for kind in REASONS:
        make(space, kind, "before")
        looked_at(space, kind, "before")
    threads = [threading.Thread(target=_replace, args=(crds, kind)) for kind in REASONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for kind in REASONS:
        make(space, kind, "after")
    for kind in REASONS:
        looked_at(space, kind, "after")
        eventually(lambda kind=kind: operator.known(kind) == 1, SECONDS)


def _replace(crds: Crds, kind: str) -> None:
    crds.delete(kind)
    crds.apply(kind)


def test_an_operator_that_comes_before_its_crds(space: Namespace, crds: Crds, operator: Operator):
    operator.stop()
    crds.delete()
    operator.start()
    space.create("ConfigMap", "bystander", data={"a": "b"})
    eventually(lambda: operator.known("ConfigMap") > 0, SECONDS)
    for kind in REASONS:
        crds.apply(kind)
        make(space, kind, "first")
        looked_at(space, kind, "first")
    assert not operator.ended()


def test_objects_that_went_with_their_crd_while_nobody_looked(
    space: Namespace, crds: Crds, operator: Operator
):
    """And a CRD that goes while the operator is away is not missed when it comes."""
    make(space, "Model", "before")
    looked_at(space, "Model", "before")
    with operator.stopped():
        crds.delete("Model")
    space.create("Dataset", "tokens", REASONS["Dataset"][0] | {"tokenizerRef": {"name": "before"}})
    space.until("Dataset", "tokens", lambda o: condition(o, "Ready")[1], SECONDS)
    crds.apply("Model")
    make(space, "Model", "before")
    looked_at(space, "Model", "before")

"""Of several operators one acts: the holder of the lease, and the next when it is gone."""

from collections.abc import Iterator

import pytest
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

SHORT = {"KUBETUNE_LEASE_SECONDS": "4"}


@pytest.fixture
def pair(
    cluster: LocalCluster, operator_process: Operator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Operator, Operator]]:
    """Two operators beside each other; the first leads."""
    operator_process.stop()
    first, second = (
        Operator(cluster, tmp_path_factory.mktemp(name)) for name in ("first", "second")
    )
    try:
        for operator in (first, second):
            operator.start(environment=SHORT)
            eventually(first.leads)
        yield first, second
    finally:
        for operator in (first, second):
            operator.stop()
            print(operator.log_since(0))


@pytest.fixture
def served(cluster: LocalCluster, pair: tuple[Operator, Operator]) -> Iterator[Namespace]:
    """A namespace with inputs, which the pair sees."""
    space = Namespace(cluster)
    space.inputs()
    yield space
    space.close()


def acts(operator: Operator) -> bool:
    """Whether it has begun to look at objects."""
    return "objects to look at" in operator.log_since(0)


def test_a_second_operator_does_nothing_and_says_so(
    served: Namespace, pair: tuple[Operator, Operator]
) -> None:
    first, second = pair
    served.job("plain")
    served.end("plain")
    served.phase("plain", "Succeeded")
    assert acts(first)
    assert not acts(second)
    assert "has the lease: this operator waits, and does nothing" in second.log_since(0)
    assert (first.leads(), second.leads()) == (True, False)
    assert second.health()[0] == 200
    assert second.ready()


@pytest.mark.parametrize("how", ["crash", "order"])
def test_the_second_goes_on_where_the_first_has_ended(
    served: Namespace, pair: tuple[Operator, Operator], how: str
) -> None:
    first, second = pair
    served.job("going")
    served.phase("going", "Running")
    if how == "crash":
        first.kill()
    else:
        first.stop()
    eventually(second.leads)
    served.end("going")
    served.phase("going", "Succeeded")
    assert len(served.runs("going")) == 1


def test_an_operator_that_was_paused_for_too_long_changes_nothing_more(
    served: Namespace, pair: tuple[Operator, Operator]
) -> None:
    first, second = pair
    served.job("going")
    served.phase("going", "Running")
    with first.paused():
        eventually(second.leads)
        served.end("going")
        served.phase("going", "Succeeded")
        served.job("new")
        served.until("FineTuneJob", "new", lambda o: phase_of(o) == "Running")
    # It still runs on its own word, but not for longer than its next look at the lease.
    eventually(first.ended)
    assert "another operator goes on" in first.log_since(0)
    assert second.leads()
    assert [len(served.runs(name)) for name in ("going", "new")] == [1, 1]


def test_an_operator_alone_goes_on_after_a_pause(
    served: Namespace, pair: tuple[Operator, Operator]
) -> None:
    first, second = pair
    second.stop()
    lease = "/apis/coordination.k8s.io/v1/namespaces/kubetune-system/leases/kubetune"
    with first.paused():
        before = served.request("GET", lease)["spec"]["renewTime"]
    eventually(lambda: served.request("GET", lease)["spec"]["renewTime"] > before)
    eventually(first.leads)
    served.job("after")
    served.phase("after", "Running")

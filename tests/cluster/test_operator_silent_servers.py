"""Servers that take requests and never answer hold up nobody who doesn't need them."""

from collections.abc import Iterator

import pytest
from kubetune.settings import Settings
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace
from tests.cluster.operator_process import Operator
from tests.cluster.silent_server import SilentServer
from tests.cluster.support import eventually

pytestmark = pytest.mark.cluster

SILENT = 60
"""More than there are workers."""
FOREVER = "3600"


@pytest.fixture
def patient(operator: Operator) -> Iterator[Operator]:
    """An operator that gives no tracking server up while a test lasts."""
    assert Settings().workers < SILENT
    operator.start(environment={"KUBETUNE_TRACKING_TIMEOUT_SECONDS": FOREVER})
    yield operator
    operator.start()


@pytest.fixture
def crowd(cluster: LocalCluster, operator: Operator) -> Iterator[Namespace]:
    """The namespace of somebody else."""
    space = Namespace(cluster)
    yield space
    space.close()


def test_silent_tracking_servers_hold_no_worker(
    jobs: Namespace, crowd: Namespace, patient: Operator
):
    with SilentServer() as server:
        for at in range(SILENT):
            crowd.create("ComputeTarget", f"silent-{at}", crowd.target(f"{server.url}/t{at}"))
        eventually(lambda: len(set(server.asking.values())) == SILENT)
        asked = server.asking
        assert patient.gauge("kubetune_reconciles_waiting_outside") >= SILENT
        # Somebody else, and another target of the same namespace.
        jobs.job("ahead")
        jobs.end("ahead")
        jobs.phase("ahead", "Succeeded")
        crowd.ready("ComputeTarget", "scripted")
        crowd.create("ComputeTarget", "late", crowd.target())
        crowd.ready("ComputeTarget", "late")
        assert asked.items() <= server.asking.items(), "all still wait for their answer"
        # Each of them waits for its own answer once, whatever else happens to it.
        for at in range(SILENT):
            label = {"metadata": {"labels": {"looked-at": "again"}}}
            crowd.patch("ComputeTarget", f"silent-{at}", label)
        jobs.job("further")
        jobs.end("further")
        jobs.phase("further", "Succeeded")
        assert server.asking == asked

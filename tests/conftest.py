"""One local cluster, and one operator, for all tests of a session that need them."""

import gc
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace
from tests.cluster.operator_process import Operator

# How fast a busy machine draws examples tells nothing about the code.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")

# Tests make much that soon goes by itself, beside millions of objects of libraries: to look through
# them for garbage as often as Python does by default takes a quarter of the time of short tests.
gc.set_threshold(10_000, 20, 20)
_modules_kept = 0


def pytest_runtest_setup() -> None:
    """What imports have made stays, so nobody looks for garbage in it again."""
    global _modules_kept
    if len(sys.modules) > _modules_kept + 100:
        gc.collect()
        gc.freeze()
        _modules_kept = len(sys.modules)


def pytest_unconfigure() -> None:
    """What is kept at the end of the process some libraries would report as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A running cluster (control plane, process node, MLflow) in a temporary home.

    The built control plane comes from the cache. No operator runs until a test asks for it.
    """
    # It runs more than one at a time of what asks for whole CPUs, and nothing here is fast or slow.
    flags = {"process-node": ("--cpus", "16")}
    folder = tmp_path_factory.mktemp("cluster")
    cluster = LocalCluster(folder, {"node", "mlflow"}, flags=flags)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def operator_process(
    cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """The operator of the session; use ``operator``."""
    operator = Operator(cluster, tmp_path_factory.mktemp("operator"))
    operator.start()
    yield operator
    operator.stop()


@pytest.fixture
def operator(operator_process: Operator) -> Iterator[Operator]:
    """A running operator. What it logged meanwhile is shown when the test fails."""
    if operator_process.ended():
        operator_process.start()
    offset = operator_process.log_size()
    yield operator_process
    print(operator_process.log_since(offset))


@pytest.fixture
def space(cluster: LocalCluster, operator: Operator) -> Iterator[Namespace]:
    """A namespace of the test's own, watched by the operator."""
    space = Namespace(cluster)
    yield space
    space.close()


@pytest.fixture(scope="module")
def module_space(cluster: LocalCluster, operator_process: Operator) -> Iterator[Namespace]:
    """A namespace with ready inputs, for the jobs of a module."""
    if operator_process.ended():
        operator_process.start()
    space = Namespace(cluster)
    space.inputs()
    yield space
    space.close()


@pytest.fixture
def jobs(module_space: Namespace, operator: Operator) -> Namespace:
    """The module's namespace; give each job a name of its own."""
    return module_space

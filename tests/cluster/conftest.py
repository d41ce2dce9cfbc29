"""One local cluster for all cluster tests of a session: control plane, process node, MLflow.

No operator runs in it; tests that need one start their own against it.
"""

from collections.abc import Iterator

import pytest
from kubetune.local.cluster import LocalCluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A running cluster in a temporary home; the built control plane comes from the cache."""
    cluster = LocalCluster(tmp_path_factory.mktemp("cluster"), {"node", "mlflow"})
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()

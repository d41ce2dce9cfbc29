"""Fixtures of the cluster tests alone; the cluster itself is in tests/conftest.py."""

from collections.abc import Iterator

import pytest
from api_client import ApiClient
from kubetune_devcluster.cluster import LocalCluster


@pytest.fixture(scope="session")
def api(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    """A kept-alive connection to the cluster's API server as administrator."""
    client = ApiClient(cluster.kubeconfig, tmp_path_factory.mktemp("api"))
    yield client
    client.close()

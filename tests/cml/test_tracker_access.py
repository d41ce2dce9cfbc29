"""The tracker that a target names: API key and certificates out of the cluster."""

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import kopf
import pytest
import pytest_asyncio
from aiohttp import web
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.connections import Connections
from kubetune.clients.egress import OPEN
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.observe.trackers import Trackers
from kubetune.tracking.base import TrackingError
from kubetune.tracking.cml import CmlTracker
from kubetune.tracking.pool import TrackerPool
from kubetune.tracking.sources import sources
from kubetune_devcluster.cml.server import PROJECT, Simulator

pytestmark = pytest.mark.usefixtures("cmlapi_path")

NAMESPACE = "team"


class Cluster:
    """An API server with Secrets and ConfigMaps, whose contents a test changes."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        self.config_maps: dict[str, dict[str, str]] = {}

    def put_key(self, api_key: str, key: str = "apiKey") -> None:
        """The Secret ``cml`` with an API key."""
        self.secrets["cml"] = {key: base64.b64encode(f"{api_key}\n".encode()).decode()}

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        *_, namespace, kind, name = request.path.split("/")
        objects = {"secrets": self.secrets, "configmaps": self.config_maps}[kind]
        if namespace != NAMESPACE or name not in objects:
            status = {"kind": "Status", "reason": "NotFound", "message": f"{kind} {name} not found"}
            return web.json_response(status, status=404)
        return web.json_response({"metadata": {"name": name}, "data": objects[name]})


@asynccontextmanager
async def connected(cluster: Cluster) -> AsyncGenerator[KubernetesClient]:
    runner = web.ServerRunner(web.Server(cluster.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    client = KubernetesClient(kopf.ConnectionInfo(server=f"http://{host}:{port}"))
    try:
        yield client
    finally:
        await client.close()
        await runner.cleanup()


@pytest.fixture
def cluster(simulator: Simulator) -> Cluster:
    cluster = Cluster()
    cluster.put_key(simulator.api_key)
    return cluster


@pytest_asyncio.fixture
async def trackers(cluster: Cluster) -> AsyncGenerator[Trackers]:
    clients, pool = CmlClients(egress=OPEN), TrackerPool(5.0, OPEN)
    async with connected(cluster) as client:
        yield Trackers(sources(Connections(client, clients, OPEN), pool))
    await pool.close()
    await clients.close()


def target(simulator: Simulator, **cml: Any) -> ComputeTargetSpec:
    return ComputeTargetSpec.model_validate(
        {
            "cml": {
                "url": simulator.url,
                "project": PROJECT,
                "apiKeySecretRef": {"name": "cml"},
                "runtime": {"kernel": "Python 3.11"},
                **cml,
            },
            "tracking": {"type": "cml"},
        }
    )


async def test_a_target_is_probed_with_the_key_of_its_secret(
    simulator: Simulator, trackers: Trackers
):
    probe = await trackers.probe(target(simulator), NAMESPACE)
    assert (probe.version, probe.error) == ("Cloudera AI experiments", "")
    assert probe.storage
    assert probe.storage.writable is None


async def test_the_same_project_and_key_are_the_same_tracker(
    simulator: Simulator, cluster: Cluster, trackers: Trackers
):
    first = await trackers.of(target(simulator), NAMESPACE)
    assert await trackers.of(target(simulator), NAMESPACE) == first
    assert isinstance(first.tracker, CmlTracker)
    other = await trackers.of(target(simulator, project="another"), NAMESPACE)
    cluster.put_key(simulator.add_key())
    renewed = await trackers.of(target(simulator), NAMESPACE)
    assert len({first.key, other.key, renewed.key}) == 3
    assert simulator.api_key not in first.key


async def test_a_renewed_key_is_used_at_once(
    simulator: Simulator, cluster: Cluster, trackers: Trackers
):
    simulator.revoke_key()
    probe = await trackers.probe(target(simulator), NAMESPACE)
    assert probe.reason == "TrackingCredentialsRefused"
    assert "refuses the API key" in probe.error
    cluster.put_key(simulator.add_key())
    assert (await trackers.probe(target(simulator), NAMESPACE)).error == ""


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        (None, "no Secret cml in namespace team; make it with key apiKey"),
        ({"token": "eA=="}, "key apiKey in Secret cml in namespace team is missing or empty"),
        ({"apiKey": "IAo="}, "key apiKey in Secret cml in namespace team is missing or empty"),
        ({"apiKey": "YSBi"}, "holds no API key"),
        ({"apiKey": "/w=="}, "holds no API key"),
    ],
)
async def test_a_secret_without_a_key(
    simulator: Simulator,
    cluster: Cluster,
    trackers: Trackers,
    secret: dict[str, str] | None,
    says: str,
):
    cluster.secrets = {"cml": secret} if secret is not None else {}
    assert says in (await trackers.probe(target(simulator), NAMESPACE)).error
    with pytest.raises(TrackingError, match=says) as info:
        await trackers.of(target(simulator), NAMESPACE)
    assert simulator.url in str(info.value)
    assert simulator.count("list_projects") == 0


async def test_another_key_of_the_secret(
    simulator: Simulator, cluster: Cluster, trackers: Trackers
):
    cluster.put_key(simulator.api_key, "production")
    given = target(simulator, apiKeySecretRef={"name": "cml", "key": "production"})
    assert (await trackers.probe(given, NAMESPACE)).error == ""


async def test_certificates_are_looked_for(
    simulator: Simulator, cluster: Cluster, trackers: Trackers
):
    given = target(simulator, caBundle={"configMapName": "authority"})
    probe = await trackers.probe(given, NAMESPACE)
    assert "no ConfigMap authority in namespace team" in probe.error
    cluster.config_maps["authority"] = {"other": "x"}
    probe = await trackers.probe(given, NAMESPACE)
    assert "key ca.crt in ConfigMap authority in namespace team is missing" in probe.error

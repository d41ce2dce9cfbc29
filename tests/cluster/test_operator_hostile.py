"""What others send is refused for the object that it is about; the operator and others go on."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.hostile_server import ANSWERS, hostile
from tests.cluster.namespace import Namespace, condition
from tests.cluster.operator_process import Operator

pytestmark = pytest.mark.cluster

LIMITED = ("gzip", "deep", "many", "long", "endless")
OTHERS = ("twice", "dripping", "dripping_head", "huge_head", "secret")
MEMORY = 150 * 2**20
"""What reading them may add: the room for answers, and what is made of one."""
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]\n" for at in range(1, 9)
)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture
def other(cluster: LocalCluster, operator: Operator) -> Iterator[Namespace]:
    """A namespace of somebody else."""
    space = Namespace(cluster)
    yield space
    space.close()


def succeeds(jobs: Namespace, name: str) -> None:
    jobs.job(name)
    jobs.end(name)
    jobs.phase(name, "Succeeded")


def test_tracking_servers_that_answer_anything(
    jobs: Namespace, other: Namespace, operator: Operator
):
    assert set(LIMITED) | set(OTHERS) <= set(ANSWERS)
    succeeds(jobs, "before-servers")
    before = operator.peak_memory()
    servers = [(name, hostile(name)) for name in (*LIMITED, *OTHERS)]
    try:
        for name, server in servers:
            other.create(
                "ComputeTarget", name.replace("_", "-"), other.target(server.__enter__().url)
            )
        succeeds(jobs, "meanwhile")
        for name in LIMITED:
            message = other.waits("ComputeTarget", name.replace("_", "-"), "AnswerRefused")
            assert "check spec.tracking.uri" in message
        for name in OTHERS:
            body = other.until(
                "ComputeTarget",
                name.replace("_", "-"),
                lambda o: condition(o, "TrackingAvailable")[0] == "False",
            )
            assert "s3cret" not in json.dumps(body["status"])
        succeeds(jobs, "after-servers")
    finally:
        for _, server in servers:
            server.__exit__(None, None, None)
    assert operator.peak_memory() < before + MEMORY
    assert "s3cret" not in operator.log_since(0)


@pytest.mark.parametrize("depth", [150, 400])
def test_values_that_nest_too_deeply_hide_no_others(
    jobs: Namespace, other: Namespace, operator: Operator, depth: int
):
    rows = [{"prompt": "a", "completion": "b", "more": nested(depth)}]
    other.create("Dataset", "deep", {"source": {"inline": {"rows": rows}}})
    message = other.stalls("Dataset", "deep", "InvalidSpec")
    assert "nest more than 100 levels" in message
    succeeds(jobs, f"beside-{depth}")
    with operator.crashed():
        pass
    succeeds(jobs, f"listed-{depth}")
    assert "nest more than 100 levels" in other.stalls("Dataset", "deep", "InvalidSpec")


@pytest.mark.parametrize("name", ["aliases", "brackets"])
def test_a_configuration_that_expands_stalls_one_job(jobs: Namespace, name: str):
    text = {"aliases": ALIASES, "brackets": "a: " + "[" * 20_000}[name]
    jobs.create("ConfigMap", f"yaml-{name}", data={"config.yaml": text})
    trainer = {"axolotl": {"configMapRef": {"name": f"yaml-{name}", "key": "config.yaml"}}}
    jobs.job(f"yaml-{name}", trainer=trainer)
    body = jobs.until("FineTuneJob", f"yaml-{name}", lambda o: "YAML" in condition(o, "Ready")[2])
    assert f"yaml-{name}" in condition(body, "Ready")[2]
    succeeds(jobs, f"beside-{name}")


@pytest.mark.parametrize(
    "uri",
    ["http://h/x?", "http://h#x", "http://h/../x", "http://me@h", "http://h\\x", "http://127.1"],
)
def test_an_address_that_leads_elsewhere_is_not_accepted(other: Namespace, uri: str):
    assert not other.created("ComputeTarget", "elsewhere", other.target(uri))


def test_loopback_is_not_called_unless_it_is_listed(
    cluster: LocalCluster, other: Namespace, operator: Operator
):
    port = cluster.mlflow_url.rpartition(":")[2]
    operator.start(environment={"KUBETUNE_EGRESS_ALLOW": ""})
    try:
        for name, host in (
            ("number", "127.0.0.1"),
            ("name", "localhost"),
            ("mapped", "[::ffff:127.0.0.1]"),
        ):
            other.create("ComputeTarget", name, other.target(f"http://{host}:{port}"))
            message = other.waits("ComputeTarget", name, "EgressRefused")
            assert "KUBETUNE_EGRESS_ALLOW" in message
            assert "spec.tracking.uri" in message
    finally:
        operator.start()
    other.ready("ComputeTarget", "number")

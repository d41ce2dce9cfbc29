"""The Secret with the operator's keys: made once, kept, and written by nobody else's hand."""

import asyncio
import base64
import os
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from kubetune.api import JsonObject
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.clients.stored_keys import KeysError, stored_keys
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.errors import LocalClusterError

pytestmark = pytest.mark.cluster

OPERATOR = "kubetune-operator"
"""Whom the local cluster gives the rights of an installed operator."""


@pytest_asyncio.fixture
async def client(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[KubernetesClient]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    client = KubernetesClient.connect()
    yield client
    await client.close()


@pytest_asyncio.fixture
async def namespace(client: KubernetesClient) -> AsyncGenerator[str]:
    name = f"keys-{os.urandom(4).hex()}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    await client.create(body)
    yield name
    await client.delete("Namespace", None, name)


async def test_operators_that_start_together_have_the_same_key(
    client: KubernetesClient, namespace: str
) -> None:
    first, *others = await asyncio.gather(*(stored_keys(client, namespace) for _ in range(8)))
    assert all(ring == first for ring in others)
    assert await stored_keys(client, namespace) == first
    secret = await client.get("Secret", namespace, "kubetune-keys")
    assert list(secret["data"]) == ["1"]


async def test_a_newer_key_is_taken_beside_the_old(
    client: KubernetesClient, namespace: str
) -> None:
    before = await stored_keys(client, namespace)
    newer: JsonObject = {"data": {"2": base64.b64encode(b"c" * 32).decode()}}
    await client.patch("Secret", namespace, "kubetune-keys", newer)
    both = await stored_keys(client, namespace)
    assert [number for number, _ in both.keys] == ["1", "2"]
    assert both.verifies(before.code("mark", "a"), "mark", "a")


async def test_what_is_missing_is_named(client: KubernetesClient, namespace: str) -> None:
    with pytest.raises(KeysError, match=r"namespace nowhere is missing.*OPERATOR_NAMESPACE"):
        await stored_keys(client, "nowhere")
    await stored_keys(client, namespace)
    await client.patch("Secret", namespace, "kubetune-keys", {"data": None})
    with pytest.raises(KeysError, match=f"Secret {namespace}/kubetune-keys has no key"):
        await stored_keys(client, namespace)


def test_the_operator_reads_no_secret_by_the_right_to_its_own(cluster: LocalCluster) -> None:
    def may(*what: str) -> bool:
        try:
            return cluster.kubectl("auth", "can-i", *what, f"--as={OPERATOR}").strip() == "yes"
        except LocalClusterError:
            return False

    assert may("create", "secrets", "-n", "kubetune-system")
    for verb in ("create", "delete", "list"):
        assert not may(verb, "secrets", "-n", "default")
    assert not may("delete", "secrets/kubetune-keys", "-n", "kubetune-system")

"""The Kubernetes backend against a real control plane, with pods on the process node.

The pods run the package in scripted_runner/, which takes the place of the real kubetune_runner by
PYTHONPATH; all of the Job is as the backend builds it.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from kubetune import names
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.schema.base import SecretKeyRef
from kubetune.api.training.settings import Resources
from kubetune.clients.kubernetes import KubernetesClient, NotFoundError
from kubetune.keys import Keyring
from kubetune.observe.cache import ObjectCache
from kubetune.targets.errors import BackendError
from kubetune.targets.kubernetes.backend import KubernetesBackend
from kubetune.targets.kubernetes.manifests import (
    build_job,
    build_plan_config_map,
    job_name,
    plan_name,
)
from kubetune.targets.values import Owner, RunAddress, RunRequest, RunState
from kubetune_devcluster.cluster import LocalCluster

pytestmark = pytest.mark.cluster


SCRIPTED_RUNNER = Path(__file__).parent / "scripted_runner"
"""Not in a temporary folder: a pod has a /tmp of its own."""


class PolledCache(ObjectCache):
    """The operator's cache, filled by a list before each look; the operator watches instead."""

    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        super().__init__()
        self._client = client
        self._namespace = namespace
        self.late: set[str] = set()
        """Kinds that aren't read again, as if their watch were late."""

    async def refresh(self) -> None:
        for kind in {"Job", "Pod"} - self.late:
            path = self._client.path(kind, self._namespace)
            # Items of a list don't say their kind.
            items: list[JsonObject] = [
                {"kind": kind, **item}
                for item in (await self._client.request("GET", path))["items"]
            ]
            uids = {item["metadata"]["uid"] for item in items}
            for body in self.of_kind(kind):
                if body["metadata"]["uid"] not in uids:
                    self.remove(body)
            for item in items:
                self.put(item)


KEYS = Keyring((("1", b"a" * 32),))
HOLD = "tests.kubetune.io/hold"


class Bench:
    """A namespace that enforces restricted pods, an owner in it, and the backend."""

    def __init__(self, client: KubernetesClient, namespace: str, uid: str) -> None:
        self.client, self.namespace = client, namespace
        # Any object will do as the owner; a ConfigMap needs no CRD.
        self.owner = Owner("v1", "ConfigMap", namespace, "tickets", uid)
        self.cache = PolledCache(client, namespace)
        self.backend = KubernetesBackend(client, self.cache, KEYS)
        self.run_key = os.urandom(8).hex()
        self.address = RunAddress(self.owner, self.run_key, None)

    def request(self, do: str = "wait", **fields: Any) -> RunRequest:
        kubernetes: JsonObject = {
            "image": "kubetune.local/runner:test",
            "tolerations": [{"key": "kubetune.io/process-node", "operator": "Exists"}],
            "env": [{"name": "PYTHONPATH", "value": str(SCRIPTED_RUNNER)}],
            **fields.pop("kubernetes", {}),
        }
        target: JsonObject = {"kubernetes": kubernetes, "tracking": {"uri": "http://127.0.0.1:9"}}
        given: JsonObject = {
            "owner": self.owner,
            "run_key": self.run_key,
            "attempt": 1,
            "purpose": "train",
            "plan": {"do": do},
            "target": ComputeTargetSpec.model_validate(target),
            "resources": Resources(cpu="100m", memory="64Mi", gpu=0),
        }
        return RunRequest(**(given | fields))

    async def states(self) -> list[RunState]:
        await self.cache.refresh()
        return await self.backend.observe(self.address)

    async def until(self, holds: Callable[[list[RunState]], object]) -> list[RunState]:
        """The states once they are as asked for."""
        states: list[RunState] = []
        try:
            async with asyncio.timeout(60):
                while not holds(states := await self.states()):  # noqa: ASYNC110 - over the network
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"still {states}") from None
        return states

    async def until_phase(self, phase: str) -> RunState:
        (state,) = await self.until(lambda states: [s.phase for s in states] == [phase])
        return state

    async def pods(self) -> list[JsonObject]:
        path = self.client.path("Pod", self.namespace)
        query = {"labelSelector": f"{names.RUN_KEY}={self.run_key}"}
        return (await self.client.request("GET", path, query=query))["items"]

    async def hold(self) -> None:
        """Keep the pod's object until ``release``, however soon its process ends."""
        (pod,) = await self.pods()
        await self._finalizers(pod, [*pod["metadata"].get("finalizers", ()), HOLD])

    async def release(self) -> None:
        """Let it go; the Job, which is being deleted, has no use for its own mark either."""
        (pod,) = await self.pods()
        await self._finalizers(pod, [])

    async def _finalizers(self, pod: JsonObject, names: list[str]) -> None:
        patch = {"metadata": {"finalizers": names}}
        await self.client.patch("Pod", self.namespace, pod["metadata"]["name"], patch)


@pytest_asyncio.fixture
async def bench(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Bench]:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    client = KubernetesClient.connect()
    name = f"backend-{os.urandom(4).hex()}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": name, "labels": labels}
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    owner = await client.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "tickets", "namespace": name},
        }
    )
    try:
        # A pod is refused until its namespace's service account is there.
        async with asyncio.timeout(30):
            path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
            while not await exists(client, path):  # noqa: ASYNC110 - over the network
                await asyncio.sleep(0.05)
        yield Bench(client, name, owner["metadata"]["uid"])
    finally:
        await client.delete("Namespace", None, name)
        await client.close()


async def exists(client: KubernetesClient, path: str) -> bool:
    try:
        await client.request("GET", path)
    except NotFoundError:
        return False
    return True


async def test_a_run_from_creation_to_its_outcome(bench: Bench):
    first = await bench.backend.ensure(bench.request("succeed"))
    assert first.phase == "pending"
    (known,) = await bench.backend.observe(bench.address)
    assert known.name == first.name, "a created Job is known before the watch shows it"
    state = await bench.until_phase("succeeded")
    assert state.outcome
    assert state.outcome.summary == {"attempt": "1"}
    assert state.exit_code == 0
    assert state.started_at
    assert state.ended_at
    assert state.started_at <= state.ended_at


async def test_what_has_begun_is_not_taken_back(bench: Bench):
    """The watches are late: by what they show it still waits."""
    await bench.backend.ensure(bench.request())
    bench.cache.late = {"Job", "Pod"}
    async with asyncio.timeout(60):
        while [pod["status"]["phase"] for pod in await bench.pods()] != ["Running"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    (state,) = await bench.states()
    assert state.phase == "pending"
    await bench.backend.stop(bench.address, unbegun=True)
    bench.cache.late = set()
    await bench.until_phase("running")
    await bench.backend.stop(bench.address)
    await bench.until(lambda states: not states)


async def test_what_has_not_begun_is_taken_back(bench: Bench):
    await bench.backend.ensure(bench.request(kubernetes={"nodeSelector": {"gpu": "none"}}))
    await bench.until_phase("pending")
    await bench.backend.stop(bench.address, unbegun=True)
    await bench.until(lambda states: not states)
    assert await bench.pods() == []


@pytest.mark.parametrize("shown", [False, True])
async def test_what_a_run_left_is_read_when_the_watch_of_pods_is_late(bench: Bench, shown: bool):
    bench.cache.late = set() if shown else {"Pod"}
    await bench.backend.ensure(bench.request("succeed"))
    if shown:
        await bench.until(lambda states: bench.cache.of_kind("Pod"))
        bench.cache.late = {"Pod"}
    state = await bench.until_phase("succeeded")
    assert state.outcome, "the Job's end is known before its pod's"
    assert state.outcome.summary == {"attempt": "1"}


async def test_ensure_twice_makes_one_job_and_the_first_plan_stays(bench: Bench):
    await bench.backend.ensure(bench.request("wait"))
    again = await bench.backend.ensure(bench.request("succeed"))
    assert again.attempt == 1
    states = await bench.until(lambda states: states and states[0].phase == "running")
    assert len(states) == 1
    name = plan_name(bench.owner, bench.run_key)
    config_map = await bench.client.get("ConfigMap", bench.namespace, name)
    assert '"wait"' in config_map["data"]["plan.json"]
    assert config_map["immutable"] is True


async def test_a_second_attempt_is_a_second_job(bench: Bench):
    await bench.backend.ensure(bench.request("crash"))
    state = await bench.until_phase("failed")
    assert (state.reason, state.exit_code, state.outcome) == ("RunFailed", 1, None)
    assert "RuntimeError: no https://***@hub.example today" in state.message
    assert state.last_lines.splitlines()[0] == "Traceback (most recent call last):"
    assert state.last_lines.splitlines()[-1].endswith("no https://***@hub.example today")
    await bench.backend.ensure(bench.request("crash", attempt=2))
    states = await bench.until(
        lambda states: [(s.attempt, s.phase) for s in states] == [(1, "failed"), (2, "failed")]
    )
    assert states[0].name != states[1].name


@pytest.mark.parametrize("kind", ["Job", "ConfigMap"])
async def test_a_name_that_is_taken_is_not_touched(bench: Bench, kind: str):
    build = {"Job": build_job, "ConfigMap": build_plan_config_map}[kind]
    foreign = build(bench.request())
    del foreign["metadata"]["ownerReferences"]
    if kind == "Job":
        # By which one would be known that was cut loose.
        del foreign["spec"]["template"]["metadata"]["labels"][names.RUN_KEY]
    made = await bench.client.create(foreign)
    with pytest.raises(BackendError, match="does not belong to ConfigMap tickets") as caught:
        await bench.backend.ensure(bench.request())
    assert caught.value.reason == "NameTaken"
    await bench.backend.stop(bench.address)
    await bench.backend.delete(bench.address)
    found = await bench.client.get(kind, bench.namespace, made["metadata"]["name"])
    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    assert "deletionTimestamp" not in found["metadata"]


async def test_stop_gives_grace_and_shows_stopping_until_the_pod_is_gone(bench: Bench):
    await bench.backend.ensure(bench.request("wait"))
    await bench.until_phase("running")
    await bench.hold()
    await bench.backend.stop(bench.address)
    seen: set[str] = set()

    def stopping(states: list[RunState]) -> bool:
        seen.update(state.phase for state in states)
        return "stopping" in seen

    def gone(states: list[RunState]) -> bool:
        seen.update(state.phase for state in states)
        return not states

    await bench.until(stopping)
    await bench.release()
    await bench.until(gone)
    assert await bench.pods() == [], "the Job must not be gone before its pod"
    assert seen <= {"running", "stopping"}
    await bench.backend.stop(bench.address)


async def test_stop_leaves_ended_runs_alone(bench: Bench):
    await bench.backend.ensure(bench.request("succeed"))
    await bench.until_phase("succeeded")
    await bench.backend.stop(bench.address)
    assert (await bench.until_phase("succeeded")).outcome


async def test_delete_removes_runs_and_plan_and_can_be_repeated(bench: Bench):
    await bench.backend.ensure(bench.request("crash"))
    await bench.until_phase("failed")
    await bench.backend.ensure(bench.request("wait", attempt=2))
    await bench.until(lambda states: [s.phase for s in states] == ["failed", "running"])
    await bench.backend.delete(bench.address)
    await bench.backend.delete(bench.address)
    await bench.until(lambda states: not states)
    name = plan_name(bench.owner, bench.run_key)
    assert not await exists(bench.client, bench.client.path("ConfigMap", bench.namespace, name))
    assert await bench.pods() == []


async def test_an_evicted_pod_ends_the_attempt_as_preempted(bench: Bench):
    await bench.backend.ensure(bench.request("wait"))
    await bench.until_phase("running")
    (pod,) = await bench.pods()
    metadata = {"name": pod["metadata"]["name"], "namespace": bench.namespace}
    await bench.client.request(
        "POST",
        bench.client.path("Pod", bench.namespace, metadata["name"]) + "/eviction",
        body={"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata},
    )
    await bench.until_phase("preempted")


async def test_a_pod_deleted_by_hand_ends_the_attempt(bench: Bench):
    await bench.backend.ensure(bench.request("wait"))
    await bench.until_phase("running")
    (pod,) = await bench.pods()
    await bench.client.delete("Pod", bench.namespace, pod["metadata"]["name"])
    (state,) = await bench.until(lambda states: states[0].phase in ("failed", "preempted"))
    # By its own word, by none, or by the signal itself, when that came before the run had begun.
    assert state.reason in ("PodLost", "Interrupted") or state.exit_code == 128 + signal.SIGTERM
    assert len(await bench.pods()) <= 1


async def test_a_missing_secret_is_why_it_waits_until_it_is_there(bench: Bench):
    token = SecretKeyRef(name="hub", key="token")
    await bench.backend.ensure(bench.request("succeed", tokens={"KUBETUNE_MODEL_TOKEN": token}))
    (state,) = await bench.until(lambda states: "hub" in states[0].message)
    assert (state.phase, state.reason) == ("pending", "CreateContainerConfigError")
    await bench.client.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "hub", "namespace": bench.namespace},
            "stringData": {"token": "t"},
        }
    )
    await bench.until_phase("succeeded")


async def test_an_unknown_image_is_why_it_waits(bench: Bench):
    await bench.backend.ensure(bench.request(kubernetes={"image": "nobody/knows:this"}))
    (state,) = await bench.until(lambda states: states[0].reason == "ImageUnavailable")
    assert state.phase == "pending"
    assert "nobody/knows:this" in state.message


async def test_no_fitting_node_is_why_it_waits(bench: Bench):
    resources = Resources(cpu="100m", memory="64Mi", gpu=63)
    await bench.backend.ensure(bench.request(resources=resources))
    (state,) = await bench.until(lambda states: states[0].reason == "Unschedulable")
    assert "nvidia.com/gpu" in state.message


async def test_a_full_quota_is_worth_another_try(bench: Bench):
    quota: JsonObject = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": bench.namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    path = f"/api/v1/namespaces/{bench.namespace}/resourcequotas"
    await bench.client.request("POST", path, body=quota)
    async with asyncio.timeout(30):
        while True:
            try:
                await bench.backend.ensure(bench.request())
            except BackendError as error:
                found = error
                break
            # Admission learns of a quota from its watch.
            await bench.backend.delete(bench.address)
            await bench.until(lambda states: not states)
    assert (found.reason, found.retryable) == ("QuotaExceeded", True)
    assert "count/jobs.batch" in str(found)


async def test_what_the_api_server_calls_invalid_is_worth_another_try(bench: Bench):
    volume = {"name": "x", "claimName": "x", "mountPath": "/kubetune/work"}
    with pytest.raises(BackendError, match="must be unique") as caught:
        await bench.backend.ensure(bench.request(kubernetes={"volumes": [volume]}))
    assert (caught.value.reason, caught.value.retryable) == ("TargetRefused", True)
    assert job_name(bench.owner, bench.run_key, 1) in str(caught.value)

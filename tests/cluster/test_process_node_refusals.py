"""Pods that the process node can't run: Pending with the reason, and no reason to make more."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from kubetune_devcluster.cluster import LocalCluster
from process_node import IMAGE, TOLERATIONS, NodeUnderTest, state
from support import eventually

pytestmark = pytest.mark.cluster

LABELS = {"app": "refused"}
PROBE = {"livenessProbe": {"exec": {"command": ["true"]}}}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    cluster = LocalCluster(tmp_path_factory.mktemp("refusals-cluster"), components=())
    try:
        cluster.up()
        made = NodeUnderTest(cluster, tmp_path_factory.mktemp("node") / "home", "links")
        made.start()
        yield made
        assert made.stop(signal.SIGINT) == 0
    finally:
        cluster.down()


def template(restart: str = "Always", **container: Any) -> dict[str, Any]:
    main = {"name": "main", "image": IMAGE, "command": ["sleep", "600"], **container}
    spec = {"restartPolicy": restart, "tolerations": TOLERATIONS, "containers": [main]}
    return {"metadata": {"labels": LABELS}, "spec": spec}


def workload(kind: str, **spec: Any) -> dict[str, Any]:
    given = {"selector": {"matchLabels": LABELS}, "template": template(), **spec}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "refused"}, "spec": given}


class Seen:
    """All pods with ``LABELS`` that the API server has had since this was made."""

    def __init__(self, node: NodeUnderTest) -> None:
        self._node = node
        self._version = node.pods()["metadata"]["resourceVersion"]

    def events(self) -> list[dict[str, Any]]:
        path = (
            "/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=1&labelSelector=app%3Drefused"
            f"&resourceVersion={self._version}"
        )
        text = self._node.cluster.kubectl("get", "--raw", path)
        return [json.loads(line) for line in text.splitlines()]

    def created(self) -> int:
        return len({event["object"]["metadata"]["uid"] for event in self.events()})

    def phases(self) -> set[str]:
        return {
            event["object"]["status"]["phase"]
            for event in self.events()
            if "deletionTimestamp" not in event["object"]["metadata"]
        }


def refused_pods(node: NodeUnderTest) -> list[dict[str, Any]]:
    """Pods that wait with a reason of the node and aren't on their way out."""
    return [
        pod
        for pod in node.pods("app%3Drefused")["items"]
        if "deletionTimestamp" not in pod["metadata"]
        and "message" in (state(pod["status"]).get("waiting") or {})
    ]


def names(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def delete(node: NodeUnderTest, kind: str, name: str = "refused") -> None:
    node.cluster.kubectl("delete", kind, name, "--cascade=foreground", "--timeout=60s")


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "ReplicaSet"])
def test_controllers_make_as_many_pods_as_they_were_asked_for(
    node: NodeUnderTest, kind: str
) -> None:
    seen = Seen(node)
    parallel = {"podManagementPolicy": "Parallel"} if kind == "StatefulSet" else {}
    node.apply(workload(kind, replicas=1, **parallel))
    eventually(lambda: len(refused_pods(node)) == 1, 30)
    # Each of these has the controller look at its pods again.
    for replicas in (2, 3):
        node.cluster.kubectl("scale", kind, "refused", f"--replicas={replicas}")
        eventually(lambda wanted=replicas: len(refused_pods(node)) == wanted, 30)
    node.cluster.kubectl("delete", "pod", next(iter(names(refused_pods(node)))), "--timeout=20s")
    eventually(lambda: len(refused_pods(node)) == 3, 30)
    waiting = state(refused_pods(node)[0]["status"])["waiting"]
    assert waiting["reason"] == "NotSupported"
    assert "spec.restartPolicy is Always" in waiting["message"]
    assert (seen.created(), seen.phases()) == (4, {"Pending"})
    delete(node, kind)


def test_a_restarted_node_leaves_them_as_they_are(node: NodeUnderTest) -> None:
    seen = Seen(node)
    node.apply(workload("Deployment", replicas=2))
    eventually(lambda: len(refused_pods(node)) == 2, 30)
    before = refused_pods(node)
    assert node.stop(signal.SIGKILL) == -signal.SIGKILL
    node.start()
    node.run("after", "true")
    assert node.ended("after")["phase"] == "Succeeded"
    assert node.stop(signal.SIGINT) == 0, "a node that stops its pods has none to stop here"
    node.start()
    node.run("after-that", "true")
    assert node.ended("after-that")["phase"] == "Succeeded"
    assert names(refused_pods(node)) == names(before)
    assert (seen.created(), seen.phases()) == (2, {"Pending"})
    times = [pod["status"]["conditions"] for pod in before]
    assert [pod["status"]["conditions"] for pod in refused_pods(node)] == times
    delete(node, "Deployment")


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        (template("Never", **PROBE), "NotSupported", "livenessProbe"),
        (template("Never", image="nginx:1"), "ErrImagePull", "--image"),
        (template("Never", tty=True), "NotSupported", "tty"),
        (
            template("Never", ports=[{"containerPort": 80, "hostPort": 8080}]),
            "NotSupported",
            "hostPort",
        ),
    ],
    ids=["probe", "image", "tty", "port"],
)
def test_bare_pods_wait_and_can_be_deleted(
    node: NodeUnderTest, spec: dict[str, Any], reason: str, words: str
) -> None:
    node.apply({"apiVersion": "v1", "kind": "Pod", **spec, "metadata": {"name": "bare"}})

    def shown() -> dict[str, Any]:
        waiting = state(node.status("bare")).get("waiting", {})
        return waiting if "message" in waiting else {}

    waiting = eventually(shown, 20)
    assert waiting["reason"] == reason
    assert words in waiting["message"]
    status = node.status("bare")
    assert (status["phase"], status["reason"]) == ("Pending", reason)
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert (ready["reason"], ready["message"]) == (reason, waiting["message"])
    assert reason in node.cluster.kubectl("get", "pod", "bare")
    delete(node, "pod", "bare")


def test_sidecars_and_init_containers_show_where_the_pod_stands(node: NodeUnderTest) -> None:
    sidecar = {"name": "s", "image": IMAGE, "command": ["true"], "restartPolicy": "Always"}
    node.run("sidecar", "true", initContainers=[sidecar])
    eventually(lambda: "Init:NotSupported" in node.cluster.kubectl("get", "pod", "sidecar"), 20)
    assert "no sidecars" in node.status("sidecar")["message"]
    delete(node, "pod", "sidecar")


def test_a_job_with_an_unsupported_volume_waits(node: NodeUnderTest) -> None:
    seen = Seen(node)
    made = template("Never")
    made["spec"]["volumes"] = [{"name": "v", "nfs": {"server": "s", "path": "/"}}]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "refused"}}
    node.apply({**job, "spec": {"template": made, "backoffLimit": 20}})
    (pod,) = eventually(lambda: refused_pods(node), 20)
    assert "volumes[v]: nfs" in pod["status"]["message"]
    assert not node.get("job", "refused")["status"].get("failed")
    delete(node, "job")
    assert (seen.created(), seen.phases()) == (1, {"Pending"})


def test_a_pod_goes_on_once_its_image_is_one_of_the_node(node: NodeUnderTest) -> None:
    node.run("mended", "true", container={"image": "nginx:1"})
    eventually(lambda: node.status("mended").get("reason") == "ErrImagePull", 20)
    node.cluster.kubectl("set", "image", "pod/mended", f"main={IMAGE}")
    status = node.ended("mended")
    assert status["phase"] == "Succeeded"
    assert "reason" not in status
    delete(node, "pod", "mended")


def test_a_pod_that_names_its_node_waits_for_gpus(node: NodeUnderTest) -> None:
    limits = {"resources": {"limits": {"nvidia.com/gpu": "3"}}}
    node.run("greedy", "true", container=limits, nodeName="process-node")
    eventually(lambda: node.status("greedy").get("reason") == "GpusTaken", 20)
    assert "3 GPUs" in state(node.status("greedy"))["waiting"]["message"]
    delete(node, "pod", "greedy")


def test_a_running_pod_isnt_refused_for_what_was_added_later(node: NodeUnderTest) -> None:
    node.run("runs", "sleep", "600")
    uid = node.running("runs")
    added = {"name": "debug", "image": IMAGE, "command": ["true"]}
    patch = json.dumps({"spec": {"ephemeralContainers": [added]}})
    flags = ("--subresource=ephemeralcontainers", "--type=strategic", "-p", patch)
    node.cluster.kubectl("patch", "pod", "runs", *flags)
    assert node.stop(signal.SIGKILL) == -signal.SIGKILL
    node.start()
    node.run("barrier", "true")
    assert node.ended("barrier")["phase"] == "Succeeded"
    assert node.status("runs")["phase"] == "Running"
    assert node.get("pod", "runs")["metadata"]["uid"] == uid
    node.cluster.kubectl("delete", "pod", "runs", "--grace-period=1", "--timeout=20s")

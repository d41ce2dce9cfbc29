"""The process node against a real control plane, in both views of volumes.

The module has a control plane of its own, as its tests kill and restart the node.
"""

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.errors import LocalClusterError
from process_node import IMAGE, ROOT, TOLERATIONS, NodeUnderTest, processes_with, state
from support import eventually

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster(tmp_path_factory.mktemp("node-cluster"), components=())
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module", params=["namespaces", "links"])
def node(
    request: pytest.FixtureRequest,
    control_plane: LocalCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[NodeUnderTest]:
    home = tmp_path_factory.mktemp("node") / "home"
    made = NodeUnderTest(control_plane, home, request.param)
    try:
        made.start()
    except AssertionError as error:
        if "refuses mount namespaces" in str(error):
            pytest.skip("this system refuses mount namespaces")
        raise
    yield made
    control_plane.kubectl("delete", "pods,jobs", "--all", "--now")
    if made.process and made.process.poll() is None:
        assert made.stop(signal.SIGINT) == 0


@pytest.fixture(autouse=True)
def no_pods_left(node: NodeUnderTest) -> Iterator[None]:
    yield
    node.cluster.kubectl("delete", "jobs,pods", "--all", "--now", "--wait=false")


def test_node_object_says_what_it_is(node: NodeUnderTest) -> None:
    found = node.node()
    assert found["metadata"]["labels"]["kubetune.io/mounts"] == node.view
    assert "not enforced" in found["metadata"]["annotations"]["kubetune.io/isolation"]
    assert found["status"]["allocatable"]["nvidia.com/gpu"] == "2"
    taints = {taint["key"]: taint["effect"] for taint in found["spec"]["taints"]}
    assert taints["kubetune.io/process-node"] == "NoSchedule"


def test_environment_and_volumes(node: NodeUnderTest, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from the machine")
    node.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings"},
            "data": {"MODE": "fast", "plan.json": "{}"},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys"},
            "stringData": {"TOKEN": "s3cret"},
        },
    )
    mounts = {
        "work": "/work-of-the-pod",
        "plan": "/etc/kubetune/plan",
        "secret": "/etc/kubetune/keys",
        "host": "/data/host",
        "labels": "/etc/labels",
        "tmp": "/tmp",
    }
    script = f"""
import json, os
root = os.environ.get("KUBETUNE_ROOT", "")
read = lambda path: open(root + path).read()
open(root + "/work-of-the-pod/sub/new", "w").write("x")
open(root + "/tmp/scratch", "w").write("x")
open(root + "/dev/termination-log", "w").write("outcome")
tokens = "/var/run/secrets/kubernetes.io/serviceaccount/"
print(json.dumps({{
    "env": dict(os.environ),
    "plan": read("/etc/kubetune/plan/p.json"),
    "plan_entries": os.listdir(root + "/etc/kubetune/plan"),
    "secret_mode": os.stat(root + "/etc/kubetune/keys/TOKEN").st_mode & 0o777,
    "host": read("/data/host/given"),
    "labels": read("/etc/labels/labels"),
    "namespace": read(tokens + "namespace"),
    "token_parts": read(tokens + "token").count("."),
    "cwd": os.getcwd(),
    "scratch_on_machine": os.path.exists({str(tmp_path)!r}),
}}))
"""
    node.run(
        "files",
        "python",
        "-c",
        script.replace("$", "$$"),
        volumes=[
            {"name": "work", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {
                "name": "plan",
                "configMap": {
                    "name": "settings",
                    "items": [{"key": "plan.json", "path": "p.json"}],
                },
            },
            {"name": "secret", "secret": {"secretName": "keys", "defaultMode": 0o400}},
            {"name": "host", "hostPath": {"path": str(tmp_path)}},
            {
                "name": "labels",
                "downwardAPI": {
                    "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.name"}}]
                },
            },
        ],
        container={
            "workingDir": "/work-of-the-pod",
            "volumeMounts": [
                *({"name": name, "mountPath": path} for name, path in mounts.items()),
                {"name": "work", "mountPath": "/work-of-the-pod/sub", "subPath": "below"},
            ],
            "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "S_"}],
            "env": [
                {"name": "A", "value": "$(S_MODE)-$(NONE)"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "TOKEN"}}},
                {"name": "P", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "L", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {
                    "name": "O",
                    "valueFrom": {
                        "configMapKeyRef": {"name": "none", "key": "k", "optional": True}
                    },
                },
            ],
            "resources": {"limits": {"cpu": "1", "nvidia.com/gpu": "1"}},
        },
    )
    status = node.ended("files")
    assert status["phase"] == "Succeeded", node.logs("files")
    assert state(status)["terminated"]["message"] == "outcome"
    seen = json.loads(node.logs("files"))
    env = seen["env"]
    assert (env["A"], env["B"], env["P"], env["L"]) == ("fast-$(NONE)", "s3cret", "files", "1")
    assert "O" not in env
    assert env["VIRTUAL_ENV"] == sys.prefix
    assert env["PATH"].startswith(f"{sys.prefix}/bin:")
    assert env["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert seen["plan"] == "{}"
    assert seen["plan_entries"] == ["p.json"]
    assert seen["secret_mode"] == 0o400
    assert seen["host"] == "from the machine"
    assert seen["labels"] == "files"
    assert (seen["namespace"], seen["token_parts"]) == ("default", 2)
    assert seen["cwd"].endswith("work-of-the-pod") or node.view == "links"
    volumes = node.home / "pods" / node.get("pod", "files")["metadata"]["uid"] / "volumes"
    assert (volumes / "work" / "below" / "new").exists()
    assert (volumes / "tmp" / "scratch").exists()
    assert not Path("/work-of-the-pod").exists(), "mount points are made on the machine"


def test_read_only_mounts_are_enforced_in_namespaces(node: NodeUnderTest, tmp_path: Path) -> None:
    node.run(
        "readonly",
        "sh",
        "-c",
        f"touch {ROOT}/data/x",
        volumes=[{"name": "v", "hostPath": {"path": str(tmp_path)}}],
        container={"volumeMounts": [{"name": "v", "mountPath": "/data", "readOnly": True}]},
    )
    phase = node.ended("readonly")["phase"]
    assert phase == ("Failed" if node.view == "namespaces" else "Succeeded")


def test_claims_of_local_volumes(node: NodeUnderTest, tmp_path: Path) -> None:
    name = f"models-{node.view}"
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "resources": {"requests": {"storage": "1Mi"}},
    }
    volume = {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Mi"},
        "hostPath": {"path": str(tmp_path)},
        "claimRef": {"namespace": "default", "name": name},
        "persistentVolumeReclaimPolicy": "Retain",
    }
    meta = {"metadata": {"name": name}}
    node.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", **meta, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **meta, "spec": claim},
    )
    node.run(
        "claim",
        "sh",
        "-c",
        f"echo weights > {ROOT}/models/w",
        volumes=[{"name": "m", "persistentVolumeClaim": {"claimName": name}}],
        container={"volumeMounts": [{"name": "m", "mountPath": "/models"}]},
    )
    assert node.ended("claim")["phase"] == "Succeeded"
    assert (tmp_path / "w").read_text() == "weights\n"


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        (["sh", "-c", "exit 5"], 5, "Error"),
        (["sh", "-c", "kill -9 $$$$"], 137, "Error"),
        (["true"], 0, "Completed"),
        (["/no/such/program"], 128, "StartError"),
    ],
)
def test_exit_codes(node: NodeUnderTest, command: list[str], code: int, reason: str) -> None:
    node.run(f"exit-{code}", *command)
    ended = state(node.ended(f"exit-{code}"))["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, reason)


def test_fallback_to_logs(node: NodeUnderTest) -> None:
    policy = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    node.run("fallback", "sh", "-c", "echo why; exit 1", container=policy)
    assert state(node.ended("fallback"))["terminated"]["message"] == "why\n"


def test_init_containers_come_first_and_share_volumes(node: NodeUnderTest) -> None:
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    first = {
        "name": "first",
        "image": IMAGE,
        "command": ["sh", "-c", f"echo made > {ROOT}/v/f"],
        **mount,
    }
    second = {"name": "second", "image": IMAGE, "command": ["sh", "-c", "exit 3"]}
    spec = {"initContainers": [first], "volumes": [{"name": "v", "emptyDir": {}}]}
    node.run("init", "sh", "-c", f"cat {ROOT}/v/f", container=mount, **spec)
    assert node.ended("init")["phase"] == "Succeeded"
    assert node.logs("init", "-c", "main") == "made\n"
    node.run("init-fails", "sh", "-c", "echo never", initContainers=[second])
    status = node.ended("init-fails")
    assert status["phase"] == "Failed"
    assert "terminated" not in state(status)


def test_waits_for_a_missing_secret(node: NodeUnderTest) -> None:
    name = f"later-{node.view}"
    source = {"secretKeyRef": {"name": name, "key": "k"}}
    container = {"env": [{"name": "X", "valueFrom": source}]}
    node.run("waits", "sh", "-c", "echo $(X)", container=container)
    waiting = eventually(lambda: state(node.status("waits")).get("waiting", {}).get("message"), 20)
    assert name in waiting
    data = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    node.apply({**data, "stringData": {"k": "came"}})
    assert node.ended("waits")["phase"] == "Succeeded"
    assert node.logs("waits") == "came\n"


def test_logs(node: NodeUnderTest) -> None:
    script = "echo one; sleep 0.5; echo two >&2; sleep 0.5; echo three"  # two pipes keep no order
    node.run("logs", "sh", "-c", script)
    node.running("logs")
    assert node.logs("logs", "-f") == "one\ntwo\nthree\n"
    assert node.logs("logs", "--tail=1") == "three\n"
    assert node.logs("logs", "--since=1h") == "one\ntwo\nthree\n"
    stamp, _, text = node.logs("logs", "--timestamps", "--tail=1").partition(" ")
    assert (len(stamp), text) == (30, "three\n")
    with pytest.raises(LocalClusterError, match="previous terminated container"):
        node.logs("logs", "--previous")


def test_exec_is_refused_with_a_sentence(node: NodeUnderTest) -> None:
    node.run("no-exec", "sleep", "600")
    node.running("no-exec")
    with pytest.raises(LocalClusterError, match="no exec, attach and port-forward"):
        node.cluster.kubectl("exec", "no-exec", "--", "ls")


def test_logs_are_for_the_api_server_only(node: NodeUnderTest) -> None:
    port = node.node()["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    pki = node.cluster.home / "pki"
    url = f"https://127.0.0.1:{port}/containerLogs/default/none/main"
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)) as nobody:
        urllib.request.urlopen(url, context=context)
    assert not isinstance(nobody.value, urllib.error.HTTPError)
    # The node's own serving certificate is of the same authority.
    context.load_cert_chain(pki / "serving.crt", pki / "serving.key")
    with pytest.raises(urllib.error.URLError) as other:
        urllib.request.urlopen(url, context=context)
    assert not isinstance(other.value, urllib.error.HTTPError) or other.value.code == 403


def test_grace_and_forced_deletion(node: NodeUnderTest) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    node.run("trap", "sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")
    node.run("stubborn", "sh", "-c", stubborn)
    node.run("forced", "sh", "-c", stubborn)
    uids = [node.running(name) for name in ("trap", "stubborn", "forced")]
    for name in ("trap", "stubborn", "forced"):
        eventually(lambda name=name: node.logs(name) == "up\n", 20)
    # The first ends well within its 30 s; the others only by SIGKILL.
    node.cluster.kubectl("delete", "pod", "trap", "--timeout=20s")
    node.cluster.kubectl("delete", "pod", "stubborn", "--grace-period=1", "--timeout=20s")
    node.cluster.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    for uid in uids:
        eventually(lambda uid=uid: not processes_with(uid), 20)
        eventually(lambda uid=uid: not (node.home / "pods" / uid).exists(), 20)


def test_deadline(node: NodeUnderTest) -> None:
    node.run("late", "sleep", "600", activeDeadlineSeconds=1)
    assert node.ended("late")["reason"] == "DeadlineExceeded"


def test_processes_left_behind_end_with_the_container(node: NodeUnderTest) -> None:
    node.run("leaves", "sh", "-c", "setsid sleep 600 & echo done")
    assert node.ended("leaves")["phase"] == "Succeeded"
    uid = node.get("pod", "leaves")["metadata"]["uid"]
    eventually(lambda: not processes_with(f"KUBETUNE_CONTAINER={uid}"), 20)


def test_lost_shim_is_a_disruption_and_leaves_nothing(node: NodeUnderTest) -> None:
    node.run("lost", "sh", "-c", "sleep 600; true")
    uid = node.running("lost")
    attempt = node.home / "pods" / uid / "containers" / "main"
    os.kill(json.loads((attempt / "state.json").read_text())["shim"], signal.SIGKILL)
    status = node.ended("lost")
    assert state(status)["terminated"]["reason"] == "ContainerStatusUnknown"
    assert "DisruptionTarget" in {c["type"] for c in status["conditions"]}
    eventually(lambda: not processes_with(f"KUBETUNE_CONTAINER={uid}"), 20)


def test_pods_survive_the_node(node: NodeUnderTest, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"while [ ! -e {gate} ]; do sleep 0.1; done"
    node.run("early", "sh", "-c", f"echo a; {wait}; echo b; exit 7")
    node.run("still", "sh", "-c", "sleep 600")
    node.run("removed", "sh", "-c", "sleep 600")
    early, _, removed = (node.running(name) for name in ("early", "still", "removed"))
    assert node.stop(signal.SIGKILL) == -signal.SIGKILL
    gate.touch()
    exit_file = node.home / "pods" / early / "containers" / "main" / "exit.json"
    eventually(exit_file.exists, 20)
    node.cluster.kubectl("delete", "pod", "removed", "--force", "--grace-period=0")
    node.start()
    assert state(node.ended("early"))["terminated"]["exitCode"] == 7
    assert node.logs("early") == "a\nb\n"
    eventually(lambda: not processes_with(removed), 20)
    assert node.status("still")["phase"] == "Running"
    assert node.stop(signal.SIGTERM) == 0
    assert node.ready() == "False"
    assert node.status("still")["phase"] == "Running"
    node.start()
    node.cluster.kubectl("delete", "pod", "still", "--grace-period=1", "--timeout=20s")


def test_one_node_a_home(node: NodeUnderTest) -> None:
    assert node.process
    command = [str(part) for part in node.process.args]  # pyright: ignore
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert "another process node" in second.stderr


def test_interrupt_stops_pods_as_disrupted(node: NodeUnderTest) -> None:
    rule = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    main = {"name": "main", "image": IMAGE, "command": ["sleep", "600"]}
    template = {"restartPolicy": "Never", "tolerations": TOLERATIONS, "containers": [main]}
    node.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "job"},
            "spec": {
                "backoffLimit": 0,
                "podReplacementPolicy": "Failed",
                "podFailurePolicy": {"rules": [rule]},
                "template": {"spec": {**template, "terminationGracePeriodSeconds": 1}},
            },
        }
    )
    eventually(lambda: node.get("job", "job")["status"].get("ready") == 1, 30)
    assert node.stop(signal.SIGINT) == 0
    assert not processes_with(str(node.home))
    node.start()
    # The Job has made another pod and counted no failure, although its backoffLimit is 0.
    eventually(lambda: node.get("job", "job")["status"].get("ready") == 1, 30)
    assert not node.get("job", "job")["status"].get("failed")


def test_many_pods(node: NodeUnderTest) -> None:
    main = {"name": "main", "image": IMAGE, "command": ["true"]}
    template = {"restartPolicy": "Never", "tolerations": TOLERATIONS, "containers": [main]}
    spec = {"completions": 20, "parallelism": 20, "template": {"spec": template}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "many"}, "spec": spec}
    node.apply(job)
    eventually(lambda: node.get("job", "many")["status"].get("succeeded") == 20, 60)

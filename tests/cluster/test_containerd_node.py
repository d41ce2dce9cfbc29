"""Runs on a real node: kubelet, containerd and runc, with restricted pods.

What the process node can't show: limits that kill, evictions, isolation, pods that find one
another. One cluster for the whole file; it is stopped and started once on the way.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.containers import cleanup, requirements
from kubetune_devcluster.containers.layout import device_name

from tests.cluster.namespace import Namespace, condition
from tests.cluster.operator_process import Operator
from tests.cluster.support import eventually, processes_of
from tests.cluster.test_operator_training import MANIFESTS

PROBLEM = requirements.missing(Path(tempfile.gettempdir()))
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(PROBLEM is not None, reason=f"no containerd node here: {PROBLEM}"),
]

STEPS = 400
OUTPUT = "  output: {modelName: routed, registry: {alias: champion}}\n"
LAUNCHER = (Path(__file__).parents[1] / "image/triton_launcher.py").read_text()
IMPORTS = "import datasets, mlflow, peft, transformers.trainer, trl; trl.SFTTrainer"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """A folder with a small model and rows; they are made while the cluster starts."""
    folder = tmp_path_factory.mktemp("sample")
    making = [
        subprocess.Popen(
            [sys.executable, "-m", "kubetune_runner.sample", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for arguments in (
            ("model", str(folder / "model"), "--size", "test", "--steps", "1"),
            ("tickets", str(folder / "tickets.jsonl"), "--rows", "100"),
        )
    ]
    # Containers can't keep what Python compiles; what is compiled here they find.
    making.append(subprocess.Popen([sys.executable, "-c", IMPORTS]))

    def made() -> Path:
        assert [process.wait() for process in making] == [0, 0, 0]
        return folder

    yield made
    for process in making:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def real(
    sample: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalCluster]:
    """A cluster with a containerd node. When it has been stopped, nothing of it is left."""
    home = tmp_path_factory.mktemp("real") / "home"
    cluster = LocalCluster(home, {"containers", "mlflow"})
    try:
        cluster.up()
        yield cluster
        last = number(home)
    finally:
        cluster.down()
    assert left_behind(home, last) == []


@pytest.fixture(scope="module")
def own_operator(
    real: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    """The operator of that cluster."""
    operator = Operator(real, tmp_path_factory.mktemp("operator"))
    operator.start()
    yield operator
    operator.stop()


@pytest.fixture(scope="module")
def there(
    real: LocalCluster, own_operator: Operator, sample: Callable[[], Path]
) -> Iterator[Namespace]:
    """A namespace of restricted pods with the sample as a volume."""
    space = Namespace(real)
    shutil.copytree(sample(), space.files, dirs_exist_ok=True)
    for path in (space.files.parent, space.files, *space.files.rglob("*")):
        path.chmod(0o755)  # pods are another user than the test
    *inputs, _ = MANIFESTS.split("---")
    apply(space, "---".join(inputs))
    yield space
    space.close()


def test_a_training_is_evicted_goes_on_and_succeeds(there: Namespace):
    apply(there, job_manifest("router", STEPS, OUTPUT))
    pod = eventually(lambda: running_pod(there), 180)
    assert pod
    name = pod["metadata"]["name"]
    follower = subprocess.Popen(
        kubectl(there, "logs", "--follow", name), stdout=subprocess.PIPE, text=True
    )
    assert follower.stdout
    lines: list[str] = []
    for line in follower.stdout:
        lines.append(line)
        if "phase training" in line:
            evict(there, name)
    assert follower.wait() == 0
    # It was told and had the time to say so; a killed run can't.
    assert any("SIGTERM" in line for line in lines), "".join(lines)

    body = there.phase("router", "Succeeded", 240)
    status = body["status"]
    assert status["counts"]["failed"] == 0, status
    assert status["result"]["registered"]["alias"] == "champion"
    assert running_pod(there) is None


def test_two_workers_train_together(there: Namespace):
    """They find one another by the names of their pods, and average gradients over gloo."""
    more = "  workers: 2\n  resources: {cpu: '1', memory: 3Gi}\n"
    apply(there, job_manifest("pair", 5, more))
    body = there.phase("pair", "Succeeded", 240)
    assert body["status"]["counts"]["failed"] == 0
    (run,) = there.runs("pair")
    selector = f"--selector=batch.kubernetes.io/job-name={run['metadata']['name']}"
    addresses = there.cluster.kubectl(
        *("get", "pods", "-n", there.namespace, selector),
        "-o=jsonpath={.items[*].status.podIP}",
    ).split()
    assert len(set(addresses)) == 2


def test_a_run_over_its_memory_is_killed_and_told_so(there: Namespace):
    """The kernel kills it while it imports torch."""
    apply(there, job_manifest("cramped", 1, "  resources: {cpu: 500m, memory: 150Mi}\n"))
    body = there.phase("cramped", "Failed", 180)
    (attempt,) = body["status"]["attempts"]
    assert attempt["reason"] == "OutOfMemory", attempt
    assert "resources.memory" in condition(body, "Failed")[2]


def test_pods_see_their_own_and_what_they_are_given(there: Namespace, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("of the machine")
    code = f"""
import importlib.metadata, json, os, pathlib, urllib.request
def fails(action):
    try: action()
    except OSError as error: return type(error).__name__
told = dict(
    uid=os.getuid(),
    processes=[name for name in os.listdir("/proc") if name.isdigit()],
    root=fails(lambda: open("/new", "w")),
    environment=fails(lambda: open("/opt/kubetune/environment/new", "w")),
    machine=fails(lambda: open({str(secret)!r})),
    home=fails(lambda: os.listdir({str(Path.home())!r} + "/.cache")),
    torch=importlib.metadata.version("torch"),
    outside=fails(lambda: urllib.request.urlopen("http://192.0.2.1", timeout=5)),
)
print(json.dumps(told))
"""
    told = json.loads(run_pod(there, "look", code))
    assert told["uid"] == 10001
    assert told["processes"] == ["1"]
    assert told["root"] == told["environment"] == "OSError"
    assert told["machine"] == told["home"] == "FileNotFoundError"
    assert told["torch"]
    assert told["outside"] == "URLError"


def test_a_pod_has_what_a_gpu_would_need(there: Namespace):
    """The image's own tree is used in test_runner_image.py; this one has the machine's system."""
    code = f"""
import os, subprocess, sys
os.environ |= {{"HOME": "/tmp", "TRITON_CACHE_DIR": "/tmp/triton"}}
subprocess.run([sys.executable, "-m", "kubetune_runner", "doctor"], check=True)
subprocess.run([sys.executable, "-c", {LAUNCHER!r}], check=True)
"""
    told = run_pod(there, "doctor", code, temporary=True)
    assert "as user 10001" in told
    assert "MISSING" not in told
    assert "compiles launchers, and they run" in told
    assert "OK /tmp/triton" in told


def test_pods_of_a_job_find_one_another_by_name(there: Namespace):
    """As workers of one training do: an Indexed Job behind a headless Service."""
    code = f"""
import os, socket, time
me, host = os.environ["JOB_COMPLETION_INDEX"], "duo-{{}}.duo.{there.namespace}.svc"
if me == "0":
    server = socket.create_server(("", 29500))
    peer, _ = server.accept()
    peer.sendall(b"hello from 0")
else:
    while True:
        try: peer = socket.create_connection((host.format(0), 29500), timeout=5)
        except OSError: time.sleep(0.2)
        else: break
    print(peer.recv(100).decode(), flush=True)
"""
    selector = {"job-name": "duo"}
    service = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": selector}
    there.request(
        "POST",
        f"/api/v1/namespaces/{there.namespace}/services",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "duo"},
            "spec": {**service, "ports": [{"port": 29500}]},
        },
    )
    pod = {**pod_spec(code), "subdomain": "duo"}
    job = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0}
    there.create("Job", "duo", {**job, "template": {"spec": pod}})
    there.until("Job", "duo", lambda o: (o.get("status") or {}).get("succeeded") == 2, 120)
    label = "batch.kubernetes.io/job-completion-index=1"
    assert "hello from 0" in there.cluster.kubectl("logs", "-n", there.namespace, "-l", label)


def test_down_moves_pods_away_and_leaves_nothing(there: Namespace, own_operator: Operator):
    cluster = there.cluster
    code = "import signal, time; signal.signal(15, lambda *_: exit(3)); print('up', flush=True)"
    waits = f"{code}\nimport pathlib\nwhile not pathlib.Path('/files/go').exists(): time.sleep(0.1)"
    ignored = {"onPodConditions": [{"type": "DisruptionTarget"}], "action": "Ignore"}
    job = {"backoffLimit": 0, "podFailurePolicy": {"rules": [ignored]}}
    pod = pod_spec(waits)
    pod["volumes"] = [{"name": "files", "persistentVolumeClaim": {"claimName": "files"}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "files", "mountPath": "/files"}]
    there.create("Job", "keeper", {**job, "template": {"spec": pod}})
    there.until("Job", "keeper", lambda o: (o.get("status") or {}).get("ready") == 1, 60)
    own_operator.stop()
    last = number(cluster.home)
    there._api.close()  # the next request opens a connection to the server's next start
    cluster.down()
    assert left_behind(cluster.home, last) == []
    assert (there.files / "tickets.jsonl").exists()

    (there.files / "go").touch()
    LocalCluster(cluster.home, {"containers"}).up()
    there.until("Job", "keeper", lambda o: (o.get("status") or {}).get("succeeded") == 1, 60)


# --- what the tests do


def apply(space: Namespace, text: str) -> None:
    space.cluster.kubectl("apply", "-n", space.namespace, "-f", "-", input=text)


def job_manifest(name: str, steps: int, more: str) -> str:
    """A FineTuneJob on the inputs of the fixture; ``more`` are further lines of its spec."""
    job = MANIFESTS.split("---")[-1].split("  output:")[0]
    return job.replace("STEPS", str(steps)).replace("router", name) + more


def running_pod(space: Namespace) -> JsonObject | None:
    """The pod of the training that is running."""
    pods = json.loads(
        space.cluster.kubectl(
            *("get", "pods", "-n", space.namespace, "-l", "kubetune.io/purpose=train"),
            *("-o", "json", "--field-selector=status.phase=Running"),
        )
    )
    return next(iter(pods["items"]), None)


def kubectl(space: Namespace, *arguments: str) -> list[str]:
    cluster = space.cluster
    config = f"--kubeconfig={cluster.kubeconfig}"
    return [str(cluster.kubectl_path()), config, "-n", space.namespace, *arguments]


def evict(space: Namespace, pod: str) -> None:
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": space.namespace},
    }
    space.request("POST", f"/api/v1/namespaces/{space.namespace}/pods/{pod}/eviction", body)


def pod_spec(code: str) -> JsonObject:
    """A pod that runs a program in Python under the restricted policy."""
    return {
        "restartPolicy": "Never",
        "runtimeClassName": "kubetune-runner",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": "kubetune.local/runner",
                "imagePullPolicy": "Never",
                "command": ["python", "-c", code],
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
    }


def run_pod(space: Namespace, name: str, code: str, *, temporary: bool = False) -> str:
    """The output of a program in a pod of its own, which must succeed; it may have a /tmp."""
    pod = pod_spec(code)
    if temporary:
        pod["volumes"] = [{"name": "tmp", "emptyDir": {}}]
        pod["containers"][0]["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    space.create("Job", name, {"backoffLimit": 0, "template": {"spec": pod}})
    ended: Callable[[JsonObject], Any] = lambda job: (job.get("status") or {}).get("conditions")  # noqa: E731
    space.until("Job", name, ended, 60)
    return space.cluster.kubectl("logs", "-n", space.namespace, f"job/{name}")


# --- what is left of a cluster


def number(home: Path) -> int:
    """The number of the running node, which its bridge and control groups are named by."""
    return int((home / "containers" / "number").read_text())


def left_behind(home: Path, number: int) -> list[object]:
    """Processes, mounts, devices, control groups and links of a node that was stopped."""
    name = device_name(number)
    alias = Path("/sys/class/net") / name / "ifalias"
    # Another cluster may have the number by now.
    ours = not alias.exists() or alias.read_text().strip() == str(home)
    logs = Path("/var/log/containers")
    return [
        *processes_of(home),
        *cleanup.mounts_below(home),
        *([alias] if alias.exists() and ours else []),
        *(requirements.CGROUPS.rglob(name) if ours else []),
        *(link for link in logs.glob("*") if link.readlink().is_relative_to(home)),
    ]

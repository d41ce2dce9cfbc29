"""The files that images/runner/Dockerfile makes, used as runs use them: restricted, read-only.

Everything that runs do is done in the tree of the image on the containerd node: inspect, train,
evaluate, merge, upload; and a launcher of Triton's is compiled there. Its base is a stand-in, whose
differences ``tests/image/base.py`` lists.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kubetune import names
from kubetune.api import JsonObject
from kubetune_devcluster.cluster import LocalCluster

from tests.cluster.namespace import Namespace, condition
from tests.cluster.test_containerd_node import (
    LAUNCHER,
    PROBLEM,
    apply,
    own_operator,
    pod_spec,
    real,
    sample,
    there,
)
from tests.cluster.test_operator_training import MANIFESTS
from tests.image import archive, base
from tests.image.dockerfile import Build, Stage

__all__ = ["own_operator", "real", "sample", "there"]

ROOT = Path(__file__).parents[2]
IMAGE = "kubetune.local/built:latest"
pytestmark = [
    pytest.mark.cluster,
    # Seven gigabytes are installed, packed and unpacked.
    pytest.mark.exhaustive,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(PROBLEM is not None, reason=f"no containerd node here: {PROBLEM}"),
    pytest.mark.skipif(bool(base.missing()), reason=f"apt-get install {base.missing()}"),
]
EVALUATION = """
apiVersion: kubetune.io/v1alpha1
kind: Evaluation
metadata: {name: compared}
spec:
  candidates: [{name: tuned, modelRef: {name: routed}}, {name: base, modelRef: {name: small}}]
  datasetRef: {name: tickets}
  promptRef: {name: route}
  computeTargetRef: {kind: ClusterComputeTarget, name: local}
  metrics: [exactMatch, loss]
  maxRows: 4
"""


@pytest.fixture(scope="module")
def built(real: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Stage]:
    """The image, carried out step by step and given to the node's containerd."""
    folder = tmp_path_factory.mktemp("image")
    base.make(folder / "base")
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv")
    build = Build(ROOT, folder / "base", folder / "work", cache, {"VARIANT": "cuda"})
    stage = build.run(ROOT / "images/runner/Dockerfile")
    layer, packed = folder / "layer.tar", folder / "image.tar"
    build.shell(stage, f"tar -C $TREE -cf {layer} .", writable=False)
    config: dict[str, Any] = {
        "Cmd": stage.command,
        "Env": [f"{name}={value}" for name, value in stage.variables.items()],
        "User": stage.user,
    }
    archive.write(IMAGE, layer, config, packed)
    node = real.home / "containers"
    ctr = [node / "programs/runtime/ctr", "--address", node / "containerd.sock"]
    command = [*ctr, "--namespace", "k8s.io", "images", "import", "--local", packed]
    imported = subprocess.run(command, capture_output=True, text=True)
    packed.unlink()
    assert imported.returncode == 0, imported.stderr
    return build, stage


@pytest.fixture(scope="module")
def used(there: Namespace, built: tuple[Build, Stage]) -> Namespace:
    """The namespace, with all runs in the built image: nothing of this machine is mounted."""
    patch = [
        {"op": "replace", "path": "/spec/kubernetes/image", "value": IMAGE},
        {"op": "remove", "path": "/spec/kubernetes/runtimeClassName"},
    ]
    there.cluster.kubectl("patch", "cct", "local", "--type=json", f"--patch={json.dumps(patch)}")
    return there


def test_what_a_gpu_needs_is_in_the_tree(there: Namespace, built: tuple[Build, Stage]) -> None:
    doctor = run_built(there, "doctor", ["python", "-m", "kubetune_runner", "doctor"])
    assert "MISSING" not in doctor
    assert "as user 10001" in doctor
    assert "/usr/bin/gcc compiles launchers, and they run" in doctor
    assert "torch is built for CUDA" in doctor
    assert run_built(there, "launcher", ["python", "-c", LAUNCHER]).startswith("OK /tmp/")


def test_everything_that_runs_do_works_in_the_tree(used: Namespace) -> None:
    text = MANIFESTS.replace("STEPS", "8").replace("  output:\n", "  output:\n    merge: true\n")
    # The inputs too: they are inspected in this image.
    for kind, name in (("Dataset", "tickets"), ("Model", "small"), ("PromptTemplate", "route")):
        used.delete(kind, name)
    used.cluster.kubectl("apply", "-n", used.namespace, "-f", "-", input=text)
    body = used.phase("router", "Succeeded", 600)
    assert body["status"]["result"]["registered"]["alias"] == "champion"
    merged = body["status"]["result"]["merged"]
    assert merged, body["status"]["result"]
    apply(used, EVALUATION)
    ended = used.until("Evaluation", "compared", finished, 600)
    assert condition(ended, "Complete")[0] == "True", ended["status"]
    measured = {
        candidate["name"]: {metric["name"] for metric in candidate["metrics"]}
        for candidate in ended["status"]["candidates"]
    }
    assert measured.keys() == {"tuned", "base"}
    assert all(metrics >= {"exactMatch", "loss"} for metrics in measured.values()), measured
    # All of it in the built image, as the user of the image and restricted.
    pods = json.loads(used.cluster.kubectl("get", "pods", "-n", used.namespace, "-o", "json"))
    images = {
        container["image"]
        for pod in pods["items"]
        if names.RUN_KEY in pod["metadata"].get("labels", {})
        for container in pod["spec"]["containers"]
    }
    assert images == {IMAGE}, images


def finished(evaluation: JsonObject) -> bool:
    """Whether an Evaluation has come to an end."""
    return "True" in (condition(evaluation, "Complete")[0], condition(evaluation, "Failed")[0])


def run_built(space: Namespace, name: str, command: list[str]) -> str:
    """The output of a command in the built image, under the restricted policy."""
    pod: JsonObject = pod_spec("")
    pod.pop("runtimeClassName")
    container = pod["containers"][0]
    container |= {"image": IMAGE, "command": ["sh", "-c", f"{shlex.join(command)} 2>&1"]}
    pod["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    container["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    container["env"] = [{"name": "TRITON_CACHE_DIR", "value": "/tmp/triton"}]
    space.create("Job", name, {"backoffLimit": 0, "template": {"spec": pod}})
    space.until("Job", name, lambda job: (job.get("status") or {}).get("conditions"), 180)
    return space.cluster.kubectl("logs", "-n", space.namespace, f"job/{name}")

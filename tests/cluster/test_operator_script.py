"""Jobs with training code of their own: the example's script, and one that leaves nothing."""

import json
from pathlib import Path

import pytest
import yaml
from kubetune import names

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.samples import put_sample

pytestmark = [pytest.mark.cluster, pytest.mark.training]

EXAMPLE = Path(__file__).parents[2] / "manifests/examples/features/job-script.yaml"
CODE = next(yaml.safe_load_all(EXAMPLE.read_text()))["data"]["train.py"]
TARGET = "computeTargetRef: {kind: ClusterComputeTarget, name: local}"
INPUTS = f"""
apiVersion: kubetune.io/v1alpha1
kind: Dataset
metadata: {{name: tickets}}
spec:
  source: {{volume: {{claimName: files, glob: tickets.jsonl, format: jsonl}}}}
  {TARGET}
---
apiVersion: kubetune.io/v1alpha1
kind: Model
metadata: {{name: small}}
spec:
  source: {{volume: {{claimName: files, path: model}}}}
  {TARGET}
"""


def job(name: str, key: str) -> str:
    return f"""
apiVersion: kubetune.io/v1alpha1
kind: FineTuneJob
metadata: {{name: {name}}}
spec:
  modelRef: {{name: small}}
  datasetRef: {{name: tickets}}
  {TARGET}
  trainer: {{script: {{configMapRef: {{name: code, key: {key}}}, args: ["--steps", "6"]}}}}
  evaluation: {{maxRows: 2, maxNewTokens: 4}}
  output: {{registry: {{alias: champion}}}}
"""


def code(**texts: str) -> str:
    data = {f"{name}.py": text for name, text in texts.items()}
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": data}
    return json.dumps(document)


def test_scripts_from_apply_to_the_end(space: Namespace) -> None:
    put_sample(space.files, 200)

    def apply(text: str) -> None:
        space.cluster.kubectl("apply", "-n", space.namespace, "-f", "-", input=text)

    apply("---\n".join([INPUTS, job("own", "train.py"), job("empty", "empty.py")]))
    space.until(
        "FineTuneJob", "own", lambda body: condition(body, "Ready")[1] == "ConfigMapMissing"
    )
    apply(code(train=CODE, empty="print('done')"))

    ended = ("Succeeded", "Failed")
    body = space.until("FineTuneJob", "own", lambda found: phase_of(found) in ended, 400)
    status = body["status"]
    assert status["phase"] == "Succeeded", status
    assert condition(body, "Complete")[0] == "True"
    assert float(status["result"]["metrics"]["evalLoss"]) > 0
    assert status["result"]["registered"]["alias"] == "champion"
    assert (status["progress"]["step"], status["progress"]["totalSteps"]) == (6, 6)
    assert "loss" in status["progress"]
    assert "estimate" not in status

    body = space.until("FineTuneJob", "empty", lambda found: phase_of(found) in ended, 240)
    assert body["status"]["phase"] == "Failed"
    assert body["status"]["failure"]["reason"] == "NoModel"
    assert "found: nothing" in body["status"]["failure"]["message"]
    (attempt,) = body["status"]["attempts"]
    assert "failed: NoModel" in attempt["log"].splitlines()[-1]
    labels = f"{names.OWNER_KIND}=FineTuneJob,{names.OWNER_NAME}=empty"
    shown = space.cluster.kubectl("logs", "-n", space.namespace, "-l", labels, "--tail=-1")
    assert attempt["log"] in shown

"""A job on preferences, from kubectl apply to a registered adapter; and one on the wrong data."""

import json

import pytest

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.samples import put_sample

pytestmark = [pytest.mark.cluster, pytest.mark.training]

ROWS = [
    {"prompt": f"My {thing} is broken.", "chosen": f" We repair the {thing}.", "rejected": " No."}
    for thing in ("phone", "lamp", "bike", "oven", "watch", "radio")
]
MANIFESTS = f"""
apiVersion: kubetune.io/v1alpha1
kind: Dataset
metadata: {{name: preferences}}
spec:
  format: preference
  source: {{inline: {{rows: {json.dumps(ROWS)}}}}}
  computeTargetRef: {{kind: ClusterComputeTarget, name: local}}
---
apiVersion: kubetune.io/v1alpha1
kind: Model
metadata: {{name: small}}
spec:
  source: {{volume: {{claimName: files, path: model}}}}
  computeTargetRef: {{kind: ClusterComputeTarget, name: local}}
---
apiVersion: kubetune.io/v1alpha1
kind: FineTuneJob
metadata: {{name: polite}}
spec:
  modelRef: {{name: small}}
  datasetRef: {{name: preferences}}
  computeTargetRef: {{kind: ClusterComputeTarget, name: local}}
  objective: dpo
  dpo: {{beta: 0.2}}
  method: {{type: lora, lora: {{rank: 4}}}}
  hyperparameters: {{maxSteps: 4, perDeviceBatchSize: 2, learningRate: 1e-2}}
  backoffLimit: 0
  output: {{registry: {{}}}}
---
apiVersion: kubetune.io/v1alpha1
kind: FineTuneJob
metadata: {{name: rated}}
spec:
  modelRef: {{name: small}}
  datasetRef: {{name: preferences}}
  computeTargetRef: {{kind: ClusterComputeTarget, name: local}}
  objective: kto
"""


def test_preferences_from_apply_to_a_registered_adapter(space: Namespace) -> None:
    put_sample(space.files, 200)
    space.cluster.kubectl("apply", "-n", space.namespace, "-f", "-", input=MANIFESTS)
    ended = ("Succeeded", "Failed")
    body = space.until("FineTuneJob", "polite", lambda found: phase_of(found) in ended, 240)
    status = body["status"]
    assert status["phase"] == "Succeeded", status
    assert status["effective"]["dpo"] == {
        "beta": 0.2,
        "lossType": ["sigmoid"],
        "labelSmoothing": 0,
    }
    assert "kto" not in status["effective"]
    metrics = status["result"]["metrics"]
    assert float(metrics["evalRewardsMargins"]) != 0
    assert "exactMatch" not in metrics
    assert status["result"]["registered"]["version"] == 1

    refused = space.get("FineTuneJob", "rated")
    assert condition(refused, "InputsReady")[:2] == ("False", "FormatMismatch")
    assert space.runs("rated") == []

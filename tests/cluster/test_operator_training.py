"""From kubectl apply to a registered adapter: the real operator and a real training."""

from typing import Any

import pytest
from kubetune import names
from kubetune.api.run.plan import DATASET_DIRECTORY, MODEL_DIRECTORY, TAG_LINEAGE
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import Namespace, annotations, condition, phase_of
from tests.cluster.support import eventually
from tests.samples import put_sample

pytestmark = [pytest.mark.cluster, pytest.mark.training]

MANIFESTS = """
apiVersion: kubetune.io/v1alpha1
kind: Dataset
metadata: {name: tickets}
spec:
  source: {volume: {claimName: files, glob: tickets.jsonl, format: jsonl}}
  computeTargetRef: {kind: ClusterComputeTarget, name: local}
---
apiVersion: kubetune.io/v1alpha1
kind: Model
metadata: {name: small}
spec:
  source: {volume: {claimName: files, path: model}}
  computeTargetRef: {kind: ClusterComputeTarget, name: local}
---
apiVersion: kubetune.io/v1alpha1
kind: PromptTemplate
metadata: {name: route}
spec:
  prompt: "{prompt}"
  completion: "{completion}"
  datasetRef: {name: tickets}
---
apiVersion: kubetune.io/v1alpha1
kind: FineTuneJob
metadata: {name: router}
spec:
  modelRef: {name: small}
  datasetRef: {name: tickets}
  promptRef: {name: route}
  computeTargetRef: {kind: ClusterComputeTarget, name: local}
  method: {type: lora, lora: {rank: 4}}
  hyperparameters: {maxSteps: STEPS, loggingSteps: 5, learningRate: 1e-3}
  evaluation: {maxRows: 2, maxNewTokens: 4}
  backoffLimit: 0
  output:
    modelName: routed
    registry: {alias: champion}
"""
STEPS = 300
PROGRESS_COLUMN = "jsonpath={.status.progress.percent}"
OTHER_WRITES = 8
"""Writes on the object once its inputs are ready, progress aside."""


def test_from_apply_to_a_registered_adapter(space: Namespace):
    put_sample(space.files, 200)
    kubectl, namespace = space.cluster.kubectl, ("-n", space.namespace)
    manifests = MANIFESTS.replace("STEPS", str(STEPS))
    kubectl("apply", *namespace, "-f", "-", input=manifests)

    # What is seen on the way: each version of the object that differs, and the progress.
    versions: dict[str, Any] = {}
    progress: list[tuple[int, int, str]] = []

    def watch(body: dict[str, Any]) -> bool:
        versions[body["metadata"]["resourceVersion"]] = body
        shown = (body.get("status") or {}).get("progress") or {}
        if "step" in shown and (not progress or progress[-1][0] != shown["step"]):
            column = kubectl("get", *namespace, "ftj", "router", "-o", PROGRESS_COLUMN)
            progress.append((shown["step"], shown.get("percent", 0), column))
        return phase_of(body) in ("Succeeded", "Failed")

    body = space.until("FineTuneJob", "router", watch, 240)
    status = body["status"]
    assert status["phase"] == "Succeeded", status
    name = f"{space.namespace}_router"
    assert status["result"]["registered"] == {"name": name, "version": 1, "alias": "champion"}
    assert float(status["result"]["metrics"]["evalLoss"]) > 0
    assert [attempt["result"] for attempt in status["attempts"]] == ["Succeeded"]
    assert condition(body, "Complete")[0] == condition(body, "Registered")[0] == "True"

    client: Any = MlflowClient(space.cluster.mlflow_url)
    (version,) = client.search_model_versions(f"name = '{name}'")
    assert client.get_model_version_by_alias(name, "champion").version == version.version
    assert version.tags[TAG_LINEAGE] == status["lineage"]["digest"]
    assert version.run_id == status["mlflow"]["runId"]

    steps = [step for step, _, _ in progress]
    assert steps == sorted(steps)
    assert [step for step in steps if step > 0], "progress was seen"
    # The column was read after the object: it may have gone on since.
    assert all(percent <= int(column) <= 100 for _, percent, column in progress if percent)
    row = kubectl("get", *namespace, "ftj", "router", "--no-headers").split()
    assert row[:3] == ["router", "Succeeded", "100"]
    # While inputs were on their way each change of them was told; from then on it is counted.
    ready = [body for body in versions.values() if condition(body, "InputsReady")[0] == "True"]
    quiet = {str(without_progress(body)): condition(body, "Ready") for body in ready}
    assert len(quiet) <= OTHER_WRITES, list(quiet.values())

    made = space.ready("Model", "routed")
    assert (made["type"], made["adapterRank"]) == ("adapter", 4)
    assert annotations(space.get("Model", "routed"))[names.JOB] == "router"
    space.delete("FineTuneJob", "router")
    eventually(lambda: space.find("FineTuneJob", "router") is None)
    assert space.find("Model", "routed")
    # The same once more costs no training: the registered version is adopted.
    kubectl("apply", *namespace, "-f", "-", input=manifests)
    again = space.phase("router", "Succeeded")
    assert again["status"]["result"]["reused"] is True
    assert space.runs("router") == []


def test_the_tracking_server_shows_sources_and_has_inspections_apart(space: Namespace):
    put_sample(space.files, 200)
    manifests, _, _ = MANIFESTS.replace("STEPS", "1").partition("  output:")
    space.cluster.kubectl("apply", "-n", space.namespace, "-f", "-", input=manifests)
    status = space.phase("router", "Succeeded", 240)["status"]
    client: Any = MlflowClient(space.cluster.mlflow_url)
    run = client.get_run(status["mlflow"]["runId"])
    shown = run.data.params
    assert shown["kubetune.model"] == "pvc://files/model"
    assert shown["kubetune.dataset.source"] == "pvc://files/tickets.jsonl"
    (used,) = {given.dataset.source for given in run.inputs.dataset_inputs}
    assert used == "pvc://files/tickets.jsonl"
    for folder in (DATASET_DIRECTORY, MODEL_DIRECTORY, str(space.files)):
        assert not [name for name, value in shown.items() if folder in value]
    trained = client.get_experiment(run.info.experiment_id).name
    assert trained == f"kubetune-{space.namespace}"
    apart = client.get_experiment_by_name(f"{trained}-inspections")
    found = client.search_runs([apart.experiment_id])
    assert {each.data.tags["kubetune.inspection"] for each in found} == {"inspectDataset"}
    others = client.search_runs([run.info.experiment_id])
    assert [each.info.run_id for each in others] == [run.info.run_id]


def without_progress(body: dict[str, Any]) -> list[Any]:
    """All of an object that counts as a write of its own."""
    status = {
        key: value
        for key, value in (body.get("status") or {}).items()
        if key not in ("progress", "mlflow")
    }
    metadata = body["metadata"]
    return [metadata.get("finalizers"), metadata.get("annotations"), body["spec"], status]

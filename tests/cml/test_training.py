"""The same FineTuneJob in the cluster and in CML: real trainings, and the same status."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubetune.api.plan import TAG_LINEAGE
from kubetune.local.cluster import LocalCluster
from mlflow.tracking import MlflowClient

from tests.cluster.workspace import Workspace, condition
from tests.cml.space import CmlSpace

pytestmark = [pytest.mark.cluster, pytest.mark.training]

JsonObject = dict[str, Any]

JOB = """
apiVersion: kubetune.io/v1alpha1
kind: FineTuneJob
metadata: {name: router}
spec:
  modelRef: {name: small}
  datasetRef: {name: tickets}
  promptRef: {name: route}
  computeTargetRef: TARGET
  method: {type: lora, lora: {rank: 4}}
  hyperparameters: {maxSteps: 20, loggingSteps: 5, learningRate: 0.001}
  evaluation: {maxRows: 2, maxNewTokens: 4}
  resources: {cpu: "1", memory: 2Gi}
  backoffLimit: 0
  output:
    registry: OUTPUT
"""
IN_CLUSTER = {"kind": "ClusterComputeTarget", "name": "local"}
IN_CML = {"kind": "ComputeTarget", "name": "plain"}
ALIASED = {"alias": "champion"}
SECONDS = 240
# What belongs to one run of one place alone; everything else must be the same.
OWN = frozenset({"external", "mlflow", "modelUri"})
"""Fields that hold ids and addresses."""
TIMES = frozenset({"startTime", "endTime", "completionTime", "updatedAt", "lastTransitionTime"})
SPEED = frozenset({"tokensPerSecond", "etaSeconds", "eta", "train_runtime", "runtime"})


def sample(folder: Path) -> None:
    """The sample model in its test size, and tickets."""
    for arguments in (
        ("model", str(folder / "model"), "--size", "test"),
        ("tickets", str(folder / "tickets.jsonl"), "--rows", "100"),
    ):
        command = [sys.executable, "-m", "kubetune_runner.sample", *arguments]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def make(space: Workspace, text: str, target: JsonObject, registry: JsonObject) -> None:
    """Make a FineTuneJob from YAML."""
    body = yaml.safe_load(text.replace("TARGET", str(target)).replace("OUTPUT", str(registry)))
    space.create("FineTuneJob", body["metadata"]["name"], body["spec"])


def train(space: Workspace, target: JsonObject, registry: JsonObject) -> JsonObject:
    """Make the FineTuneJob and return it when it is over."""
    make(space, JOB, target, registry)
    return space.phase("router", "Succeeded", SECONDS)


def inputs(space: Workspace, dataset: JsonObject, model: JsonObject, target: JsonObject) -> None:
    """The objects that the job names, Ready."""
    there = {"computeTargetRef": target}
    space.create("Dataset", "tickets", {"source": dataset, **there})
    space.create("Model", "small", {"source": model, **there})
    texts = {"prompt": "{prompt}", "completion": "{completion}"}
    space.create("PromptTemplate", "route", {**texts, "datasetRef": {"name": "tickets"}})
    for kind, name in (("Dataset", "tickets"), ("Model", "small"), ("PromptTemplate", "route")):
        space.ready(kind, name, SECONDS)


@pytest.fixture
def in_cluster(cluster: LocalCluster, cml: CmlSpace) -> Iterator[Workspace]:
    """A second namespace, whose job trains in the cluster."""
    space = Workspace(cluster)
    yield space
    space.close()


def in_project(cml: CmlSpace, tracking: JsonObject | None = None) -> None:
    """Runs of the stand-in are processes; the target takes what the cluster's takes."""
    cml.stand_in.mode = "process"
    sample(cml.stand_in.files())
    env = [{"name": "OMP_NUM_THREADS", "value": "1"}]
    cml.create("ComputeTarget", "plain", cml.cml_target(tracking, env=env))
    dataset = {"project": {"glob": "tickets.jsonl", "format": "jsonl"}}
    inputs(cml, dataset, {"project": {"path": "model"}}, IN_CML)


def told(space: Workspace, status: JsonObject) -> JsonObject:
    """The status without what belongs to one place and one moment."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: plain(item)
                for key, item in value.items()
                if key not in OWN | TIMES | SPEED and "per_second" not in key
            }
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, str):
            return value.replace(space.namespace, "NAMESPACE")
        return value

    shown = plain(status)
    for attempt in shown["attempts"]:
        del attempt["job"]
    for item in shown["conditions"]:
        for label in ("ClusterComputeTarget/local", "ComputeTarget/plain"):
            item["message"] = item["message"].replace(label, "TARGET")
    return shown


def test_the_same_job_in_cluster_and_workspace(cml: CmlSpace, in_cluster: Workspace) -> None:
    sample(in_cluster.files)
    dataset = {"volume": {"claimName": "files", "glob": "tickets.jsonl", "format": "jsonl"}}
    inputs(in_cluster, dataset, {"volume": {"claimName": "files", "path": "model"}}, IN_CLUSTER)
    here = train(in_cluster, IN_CLUSTER, ALIASED)["status"]
    in_project(cml)
    there = train(cml, IN_CML, ALIASED)["status"]

    expected, found = told(in_cluster, here), told(cml, there)
    assert found.keys() == expected.keys()
    for field in expected:
        assert found[field] == expected[field], field
    client: Any = MlflowClient(cml.cluster.mlflow_url)
    for space, status in ((in_cluster, here), (cml, there)):
        name = f"{space.namespace}-router"
        version = client.get_model_version_by_alias(name, "champion")
        assert version.run_id == status["mlflow"]["runId"]
        assert version.tags[TAG_LINEAGE] == status["lineage"]["digest"]
    (job,) = cml.cml_jobs("router")
    assert there["external"]["jobId"] == job.id


def test_a_job_that_a_workspace_tracks_and_registers_itself(cml: CmlSpace) -> None:
    in_project(cml, {"type": "cml"})
    body = train(cml, IN_CML, {"provider": "cml"})
    status, name = body["status"], f"{cml.namespace}-router"
    assert status["result"]["registered"] == {"name": name, "version": 1}
    assert float(status["result"]["metrics"]["eval_loss"]) > 0
    assert status["progress"]["step"] == 20
    assert condition(body, "Registered")[0] == "True"
    (model,) = cml.stand_in.workspace.tracking.registry.search_registered_models()
    assert model.name == name
    (version,) = cml.stand_in.workspace.tracking.registry.search_model_versions(f"name='{name}'")
    assert version.run_id == status["mlflow"]["runId"]
    assert condition(body, "Complete")[0] == "True"
    # The same once more costs no training: the registered version is adopted.
    cml.delete("FineTuneJob", "router")
    cml.until("Model", "small", lambda _: cml.find("FineTuneJob", "router") is None)
    again = train(cml, IN_CML, {"provider": "cml"})
    assert again["status"]["result"]["reused"] is True
    assert len(cml.cml_jobs("router")) == 1

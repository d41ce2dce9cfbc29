"""The same FineTuneJob and Evaluation in the cluster and in CML: real runs, and the same status."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kubetune.api import JsonObject
from kubetune.api.run.evaluation_plan import ROWS_ARTIFACT, EvaluatedRow
from kubetune.api.run.plan import (
    CML_RUNS_FOLDER,
    FILE_LIST,
    TAG_ATTESTATION,
    TAG_LINEAGE,
    TAG_METRICS,
)
from kubetune.attestation import CONFIG_MAP, opened
from kubetune.cli.compare import compare
from kubetune.tracking.cml_values import tags_about, version_tag
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.cml import client_package
from mlflow.entities import RunTag
from mlflow.tracking import MlflowClient

from tests.cluster import kstatus
from tests.cluster.namespace import Namespace, condition, phase_of
from tests.cml.space import CmlSpace
from tests.samples import put_sample

pytestmark = [pytest.mark.cluster, pytest.mark.training]


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
EVALUATION: JsonObject = {
    "candidates": [
        {"name": "base", "modelRef": {"name": "small"}},
        {"name": "tuned", "modelRef": {"name": "routed"}},
    ],
    "datasetRef": {"name": "tickets"},
    "promptRef": {"name": "route"},
    "metrics": ["loss", "exactMatch", "latency"],
    "thresholds": [{"metric": "loss", "betterThan": {"candidate": "base"}}],
    "generation": {"maxNewTokens": 4},
    "maxRows": 4,
    "samples": 2,
    "parallelism": 2,
    "resources": {"cpu": "1", "memory": "2Gi"},
    "backoffLimit": 0,
}
IN_CLUSTER = {"kind": "ClusterComputeTarget", "name": "local"}
IN_CML = {"kind": "ComputeTarget", "name": "plain"}
ALIASED = {"alias": "champion"}
SECONDS = 240
# What belongs to one run of one place alone; everything else must be the same.
OWN = frozenset({"runKey", "runTime", "external", "mlflow", "modelUri", "job", "filesDigest"})
"""Fields that hold ids and addresses, and what is of files that do."""
TIMES = frozenset({"startTime", "endTime", "completionTime", "updatedAt", "lastTransitionTime"})
CLOCKS = frozenset({"waitTime", "queueTime"})
"""There only where whole seconds have passed."""
SPEED = frozenset({"tokensPerSecond", "etaSeconds", "eta", "train_runtime", "runtime"})


def make(space: Namespace, text: str, target: JsonObject, registry: JsonObject) -> None:
    """Make a FineTuneJob from YAML."""
    body = yaml.safe_load(text.replace("TARGET", str(target)).replace("OUTPUT", str(registry)))
    space.create("FineTuneJob", body["metadata"]["name"], body["spec"])


def train(space: Namespace, target: JsonObject, registry: JsonObject) -> JsonObject:
    """Make the FineTuneJob and return it when it is over."""
    make(space, JOB, target, registry)
    return space.phase("router", "Succeeded", SECONDS)


def inputs(space: Namespace, dataset: JsonObject, model: JsonObject, target: JsonObject) -> None:
    """The objects that the job names, Ready."""
    there = {"computeTargetRef": target}
    space.create("Dataset", "tickets", {"source": dataset, **there})
    space.create("Model", "small", {"source": model, **there})
    texts = {"prompt": "{prompt}", "completion": "{completion}"}
    space.create("PromptTemplate", "route", {**texts, "datasetRef": {"name": "tickets"}})
    for kind, name in (("Dataset", "tickets"), ("Model", "small"), ("PromptTemplate", "route")):
        space.ready(kind, name, SECONDS)


@pytest.fixture
def in_cluster(cluster: LocalCluster, cml: CmlSpace) -> Iterator[Namespace]:
    """A second namespace, whose job trains in the cluster."""
    space = Namespace(cluster)
    yield space
    space.close()


def in_project(cml: CmlSpace, tracking: JsonObject | None = None) -> None:
    """Runs of the simulator are processes; the target takes what the cluster's takes."""
    cml.simulator.mode = "process"
    put_sample(cml.simulator.files(), 100)
    env = [{"name": "OMP_NUM_THREADS", "value": "1"}]
    cml.create("ComputeTarget", "plain", cml.cml_target(tracking, env=env))
    dataset = {"project": {"glob": "tickets.jsonl", "format": "jsonl"}}
    inputs(cml, dataset, {"project": {"path": "model"}}, IN_CML)


def evaluate(space: Namespace, target: JsonObject) -> None:
    """Compare the base with what the job made, whose Model is not Ready yet."""
    there = {"computeTargetRef": target}
    adapter = {"source": {"fineTuneJob": {"name": "router"}}, "baseModelRef": {"name": "small"}}
    space.create("Model", "routed", adapter | there)
    space.create("Evaluation", "compare", EVALUATION | there)


def evaluated(space: Namespace) -> JsonObject:
    """The Evaluation when it is over."""
    ends = ("Succeeded", "Failed")
    body = space.until("Evaluation", "compare", lambda o: phase_of(o) in ends, SECONDS)
    assert phase_of(body) == "Succeeded", json.dumps(body["status"], indent=1)
    return body


def told(space: Namespace, status: JsonObject) -> JsonObject:
    """The status without what belongs to one place and one moment."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: plain(item)
                for key, item in value.items()
                if key not in OWN | TIMES | CLOCKS | SPEED and "per_second" not in key
            }
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, str):
            for target in ("ClusterComputeTarget/local", "ComputeTarget/plain"):
                value = value.replace(target, "TARGET")
            return value.replace(space.namespace, "NAMESPACE")
        return value

    return plain(status)


def taken(status: JsonObject, kind: str) -> JsonObject:
    """A condition, which the status has no more then."""
    (found,) = [each for each in status["conditions"] if each["type"] == kind]
    status["conditions"].remove(found)
    return found


def judged(space: Namespace, body: JsonObject) -> JsonObject:
    """The status of an Evaluation without speed, and digests that the place counts for."""
    status = told(space, body["status"])
    for candidate in status["candidates"]:
        del candidate["digest"]
        (latency,) = [metric for metric in candidate["metrics"] if metric["name"] == "latency"]
        candidate["metrics"].remove(latency)
        assert float(latency["value"]) > 0
    return status


def rows_of(client: Any, candidate: JsonObject) -> list[EvaluatedRow]:
    """The rows of a candidate without speed, from its run's artifact."""
    path = Path(client.download_artifacts(candidate["mlflow"]["runId"], ROWS_ARTIFACT))
    rows = [EvaluatedRow.model_validate_json(line) for line in path.read_text().splitlines()]
    answered = [row for row in rows if row.answer is not None]
    assert all(row.metrics.pop("latency") > 0 for row in answered)
    return rows


def side_by_side(space: Namespace) -> str:
    """The answers that ``kubetune compare`` shows."""
    environment = {"KUBECONFIG": str(space.cluster.kubeconfig), "MLFLOW_TRACKING_URI": None}
    shown = CliRunner().invoke(compare, ["compare", "-n", space.namespace], env=environment)
    assert shown.exit_code == 0, shown.output
    assert shown.stderr == ""
    table, separator, answers = shown.stdout.partition("row ")
    assert "tuned *" in table
    return separator + answers


def test_the_same_job_in_cluster_and_workspace(cml: CmlSpace, in_cluster: Namespace) -> None:
    put_sample(in_cluster.files, 100)
    dataset = {"volume": {"claimName": "files", "glob": "tickets.jsonl", "format": "jsonl"}}
    inputs(in_cluster, dataset, {"volume": {"claimName": "files", "path": "model"}}, IN_CLUSTER)
    here = train(in_cluster, IN_CLUSTER, ALIASED)["status"]
    # One place measures while the other trains.
    evaluate(in_cluster, IN_CLUSTER)
    in_project(cml)
    there = train(cml, IN_CML, ALIASED)["status"]
    evaluate(cml, IN_CML)

    # Without a claim a pod keeps no checkpoint, and a status shows what acts.
    assert there["effective"].pop("checkpoint")
    assert "checkpoint" not in here["effective"]
    kept = taken(there, "ProgressKept"), taken(here, "ProgressKept")
    assert [each["reason"] for each in kept] == ["KeptOnTarget", "NoDurableClaim"]
    assert all(status["result"]["filesDigest"].startswith("sha256:") for status in (here, there))
    expected, found = told(in_cluster, here), told(cml, there)
    assert found.keys() == expected.keys()
    differing = {field for field in expected if found[field] != expected[field]}
    assert {field: (found[field], expected[field]) for field in differing} == {}
    client: Any = MlflowClient(cml.cluster.mlflow_url)
    for space, status in ((in_cluster, here), (cml, there)):
        name = f"{space.namespace}_router"
        version = client.get_model_version_by_alias(name, "champion")
        assert version.run_id == status["mlflow"]["runId"]
        assert version.tags[TAG_LINEAGE] == status["lineage"]["digest"]
    (job,) = cml.cml_jobs("router")
    assert there["external"]["jobId"] == job.id

    # Both places measure the same, and come to the same verdict.
    here, there = evaluated(in_cluster), evaluated(cml)
    expected, found = judged(in_cluster, here), judged(cml, there)
    assert found == expected
    assert kstatus.verdicts([here, there]) == ["Current", "Current"]
    assert (found["winner"], condition(there, "Passed")[0]) == ("tuned", "True")
    answers = side_by_side(cml)
    assert answers == side_by_side(in_cluster)
    assert answers.count("\n  reference  ") == EVALUATION["samples"]
    candidates = (there["status"]["candidates"], here["status"]["candidates"])
    for mine, other in zip(*candidates, strict=True):
        rows = rows_of(client, mine)
        # A loss of all held-out rows, and answers to four of them.
        assert len(rows) == mine["rows"] == mine["lossRows"] == 10
        assert sum(row.answer is not None for row in rows) == EVALUATION["maxRows"]
        assert rows == rows_of(client, other)
    # What is measured leaves nothing in the project.
    assert [job.deleted is None for job in cml.cml_jobs("compare")] == [False, False]
    runs = cml.simulator.files() / CML_RUNS_FOLDER
    assert [path.name for path in runs.iterdir()] == [cml.run_key("router")]


def test_a_job_that_a_workspace_tracks_and_registers_itself(cml: CmlSpace) -> None:
    in_project(cml, {"type": "cml"})
    body = train(cml, IN_CML, {"provider": "cml"})
    status, name = body["status"], f"{cml.namespace}_router"
    assert status["result"]["registered"] == {"name": name, "version": 1}
    assert float(status["result"]["metrics"]["evalLoss"]) > 0
    assert status["progress"]["step"] == 20
    assert condition(body, "Registered")[0] == "True"
    (model,) = cml.simulator.workspace.tracking.registry.search_registered_models()
    assert model.name == name
    (version,) = cml.simulator.workspace.tracking.registry.search_model_versions(f"name='{name}'")
    assert version.run_id == status["mlflow"]["runId"]
    assert condition(body, "Complete")[0] == "True"
    # What it was made of stands on its run, signed for everybody.
    run = cml.simulator.workspace.tracking.store.get_run(version.run_id)
    envelope = tags_about(run.data.tags, name)[TAG_ATTESTATION]
    path = f"/api/v1/namespaces/kubetune-system/configmaps/{CONFIG_MAP}"
    stated = opened(envelope, cml.request("GET", path)["data"])
    digest = status["result"]["filesDigest"].removeprefix("sha256:")
    assert stated["subject"][0] == {"name": FILE_LIST, "digest": {"sha256": digest}}
    files = {subject["name"] for subject in stated["subject"]}
    assert {"MLmodel", "loader.py", "artifacts/adapter/adapter_config.json"} < files
    (about,) = (
        item["annotations"]
        for item in stated["predicate"]["runDetails"]["byproducts"]
        if item["name"] == "registered"
    )
    assert (about["name"], about["version"], about["run"]) == (name, 1, version.run_id)
    verified = verify(cml, f"{cml.namespace}/router", "--no-files")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert f"version 1, of FineTuneJob {cml.namespace}/router" in verified.stdout
    # The same once more costs no training: the registered version is adopted.
    cml.delete("FineTuneJob", "router")
    cml.until("Model", "small", lambda _: cml.find("FineTuneJob", "router") is None)
    again = train(cml, IN_CML, {"provider": "cml"})
    assert again["status"]["result"]["reused"] is True
    assert len(cml.cml_jobs("router")) == 1
    cml.simulator.workspace.tracking.store.set_tag(
        version.run_id, RunTag(version_tag(TAG_METRICS, name), '{"eval_loss": 0.0}')
    )
    verified = verify(cml, f"{name}/1", "--cml-project", cml.simulator.project.id)
    assert verified.returncode == 1
    assert "CHANGED  metrics: " in verified.stdout
    assert "unknown  files: the API of CML hands out no artifacts" in verified.stdout


def verify(space: CmlSpace, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``kubetune verify`` of a version in the workspace."""
    command = [sys.executable, "-m", "kubetune.cli", "verify", *arguments]
    return subprocess.run(
        [*command, "--cml-url", space.simulator.url],
        check=False,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KUBECONFIG": str(space.cluster.kubeconfig),
            "CDSW_APIV2_KEY": space.simulator.api_key,
            "PYTHONPATH": str(client_package.build()),
        },
    )

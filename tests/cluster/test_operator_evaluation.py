"""A base model and its adapter, measured, compared and promoted by the real operator and runner."""

import json
import os
import subprocess
import sys
import urllib.request
from typing import Any

import pytest
from kubetune import names
from mlflow.tracking import MlflowClient

from tests.cluster.namespace import Namespace, condition, phase_of, volume
from tests.cluster.support import eventually
from tests.samples import put_sample

pytestmark = [pytest.mark.cluster, pytest.mark.training]

LOCAL = {"computeTargetRef": {"kind": "ClusterComputeTarget", "name": "local"}}
RESOURCES = {"resources": {"cpu": "500m", "memory": "1Gi"}}
FUNCTIONS = {
    "words": "def metric(prediction, reference, row):\n    return len(row['prompt'].split())\n",
}
TASK = {
    "kinds.yaml": """
        task: kinds
        dataset_path: json
        dataset_kwargs: {data_files: {test: kinds.jsonl}}
        test_split: test
        output_type: multiple_choice
        doc_to_text: "{{question}}"
        doc_to_choice: [fruit, place]
        doc_to_target: "{{kind}}"
        """,
    "kinds.jsonl": '{"question": "A plum is a", "kind": 0}\n{"question": "Oslo is a", "kind": 1}\n',
}


def spec(registry: str) -> dict[str, Any]:
    return {
        "candidates": [
            {"name": "base", "modelRef": {"name": "small"}},
            {"name": "tuned", "modelRef": {"name": "routed"}},
        ],
        "datasetRef": {"name": "tickets"},
        "metrics": ["loss", "tokenF1", "rougeL", "words", "kinds"],
        "tasks": [{"name": "kinds", "task": "kinds", "configMapRef": {"name": "harness"}}],
        "functions": [
            {"name": name, "configMapRef": {"name": "metrics", "key": f"{name}.py"}}
            for name in FUNCTIONS
        ],
        "generation": {"maxNewTokens": 4},
        "maxRows": 4,
        "maxLossRows": 5,
        "samples": 2,
        "parallelism": 2,
        "thresholds": [
            {"metric": "loss", "betterThan": {"candidate": "base"}},
            {"metric": "loss", "betterThan": {"alias": "champion"}},
        ],
        "promote": {"name": registry, "alias": "champion"},
        **LOCAL,
        **RESOURCES,
    }


def ended(space: Namespace, name: str) -> dict[str, Any]:
    body = space.until(
        "Evaluation", name, lambda o: phase_of(o) in ("Succeeded", "Failed"), seconds=240
    )
    assert phase_of(body) == "Succeeded", json.dumps(body["status"], indent=1)
    return body


def runs_of(space: Namespace, name: str) -> list[dict[str, Any]]:
    return [
        item
        for item in space.objects("Job")
        if (item["metadata"].get("annotations") or {}).get(names.OWNER_NAME) == name
    ]


def test_base_and_adapter_are_compared_and_the_better_one_promoted(space: Namespace):
    put_sample(space.files, 60)
    registry = f"{space.namespace}-router"
    source = {"volume": {"claimName": "files", "glob": "tickets.jsonl", "format": "jsonl"}}
    space.create("Dataset", "tickets", {"source": source, **LOCAL})
    space.create("Model", "small", {"source": volume("model"), **LOCAL})
    # Before there is anything to measure: it waits, and says for what.
    space.create("Evaluation", "compare", spec(registry))
    message = space.waits("Evaluation", "compare", "DatasetNotReady")
    assert "tickets" in message
    assert "metrics" in space.waits("Evaluation", "compare", "ConfigMapMissing")
    code = {f"{name}.py": text for name, text in FUNCTIONS.items()}
    space.create("ConfigMap", "metrics", data=code)
    space.until("Evaluation", "compare", lambda o: "task kinds" in condition(o, "Ready")[2])
    space.create("ConfigMap", "harness", data=TASK)
    space.ready("Model", "small")
    body = space.until(
        "Evaluation", "compare", lambda o: condition(o, "InputsReady")[1] == "ModelMissing"
    )
    assert "Model routed of candidate tuned" in condition(body, "Ready")[2]
    space.create(
        "FineTuneJob",
        "router",
        {
            "modelRef": {"name": "small"},
            "datasetRef": {"name": "tickets"},
            "hyperparameters": {"maxSteps": 3, "learningRate": 1e-2},
            "evaluation": {"maxRows": 0, "maxLossRows": 5},
            "output": {"modelName": "routed", "registry": {"name": registry}},
            **LOCAL,
        },
    )

    body = ended(space, "compare")
    status = body["status"]
    base, tuned = status["candidates"]
    assert (base["phase"], tuned["phase"]) == ("Succeeded", "Succeeded")
    assert base["rowsDigest"] == tuned["rowsDigest"]
    assert base["rows"] == tuned["rows"]
    assert base["lossRows"] == tuned["lossRows"] == 5
    assert base["message"] == "measured; loss on 5 of 6 rows"
    found = {item["name"]: item for item in tuned["metrics"]}
    job = space.get("FineTuneJob", "router")
    assert "loss on 5 of 6 held-out rows" in condition(job, "Complete")[2]
    trained = job["status"]
    assert trained["result"]["rows"]["evaluation"]["lossRows"] == 5
    loss = float(trained["result"]["metrics"]["evalLoss"])
    assert float(found["loss"]["value"]) == pytest.approx(loss, rel=2e-3), "of the same rows"
    assert list(found) == [*spec(registry)["metrics"], "bitsPerByte"]
    assert float(found["words"]["value"]) > 0
    assert found["words"]["delta"] == "+0"
    assert float(found["kinds"]["value"]) in (0, 0.5, 1)
    assert float(found["loss"]["low"]) <= float(found["loss"]["value"])
    assert float(found["loss"]["delta"]) < 0
    assert float(found["bitsPerByte"]["value"]) > 0
    assert base["tokens"] == tuned["tokens"]
    assert status["winner"] == "tuned"
    assert condition(body, "Passed")[:2] == ("True", "ThresholdsMet")
    assert condition(body, "Ready")[:2] == ("True", "Evaluated")
    row = space.cluster.kubectl("get", "-n", space.namespace, "eval", "compare", "--no-headers")
    assert row.split()[:6] == ["compare", "Succeeded", "100", "tuned", "True", "Evaluated"]

    # The alias moved, and the version keeps a record of it.
    assert status["promoted"] == {"name": registry, "alias": "champion", "version": 1}
    client: Any = MlflowClient(space.cluster.mlflow_url)
    version = client.get_model_version_by_alias(registry, "champion")
    assert version.version == "1"
    tag = f"kubetune.promoted.champion.{body['metadata']['uid']}"
    note = json.loads(version.tags[tag])
    assert (note["from"], note["by"]) == (None, f"Evaluation {space.namespace}/compare")

    # A spec is what was measured: it can't be changed.
    path = space.path("Evaluation", "compare")
    code, answer = space.try_request("PATCH", path, {"spec": {"maxRows": 5}})
    assert code == 422
    assert "can't be changed" in answer["message"]

    # The same inputs in another Evaluation cost no run; another threshold judges anew.
    again = spec(registry)
    again["thresholds"] = [{"candidate": "tuned", "metric": "loss", "max": 0.001}]
    space.create("Evaluation", "again", again)
    body = ended(space, "again")
    assert [item["reused"] for item in body["status"]["candidates"]] == [True, True]
    assert body["status"]["candidates"][1]["metrics"] == tuned["metrics"]
    assert runs_of(space, "again") == []
    assert "by another run" in logs(space, "eval/again", "--candidate", "tuned").stderr
    assert condition(body, "Passed")[:2] == ("False", "ThresholdsMissed")
    assert condition(body, "Promoted")[:2] == ("False", "NotPromoted")

    # Suspended from the start: nothing runs. Its time to live ends one that is over.
    space.create("Evaluation", "later", spec(registry) | {"maxRows": 3, "suspend": True})
    space.until("Evaluation", "later", lambda o: phase_of(o) == "Suspended")
    assert runs_of(space, "later") == []
    path = space.path("Evaluation", "again")
    assert space.try_request("PATCH", path, {"spec": {"ttlSecondsAfterFinished": 0}})[0] == 200
    eventually(lambda: space.try_request("GET", path)[0] == 404)

    # Without the server that this process may have talked to.
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    shown = subprocess.run(
        [sys.executable, "-m", "kubetune.cli", "compare", "compare", "-n", space.namespace],
        check=True,
        capture_output=True,
        text=True,
        env={**environment, "KUBECONFIG": str(space.cluster.kubeconfig)},
    )
    assert shown.stderr == ""
    assert "tuned *" in shown.stdout
    assert shown.stdout.count("\n  reference  ") == 2, shown.stdout
    assert len(runs_of(space, "compare")) == 2

    refused_where_files_were_changed(space, registry)

    assert "give --candidate base|tuned" in logs(space, "eval/compare").stderr
    shown = logs(space, "eval/compare", "--candidate", "tuned")
    assert "phase evaluating" in shown.stdout, shown.stderr
    # Without its pod the same comes from MLflow.
    space.cluster.kubectl("delete", "pods", "--all", "-n", space.namespace)
    assert "phase evaluating" in logs(space, "eval/compare", "--candidate", "tuned").stdout
    space.delete("Evaluation", "compare")
    eventually(lambda: runs_of(space, "compare") == [])


def refused_where_files_were_changed(space: Namespace, registry: str) -> None:
    """Whoever may write to the artifact store can't have others' weights loaded."""
    client: Any = MlflowClient(space.cluster.mlflow_url)
    version = client.get_model_version(registry, "1")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    verified = command(space, "verify", f"{space.namespace}/router")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "ok       files: " in verified.stdout
    (file,) = [
        item.path
        for item in client.list_logged_model_artifacts(model.model_id, "artifacts/adapter")
        if item.path.endswith(".safetensors")
    ]
    root = model.artifact_location.removeprefix("mlflow-artifacts:/").strip("/")
    url = f"{space.cluster.mlflow_url}/api/2.0/mlflow-artifacts/artifacts/{root}/{file}"
    request = urllib.request.Request(url, b"other weights", method="PUT")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    verified = command(space, "verify", f"{space.namespace}/router")
    assert verified.returncode == 1
    assert "CHANGED  file artifacts/adapter/adapter_model.safetensors: " in verified.stdout
    space.create("Evaluation", "robbed", spec(registry) | {"maxRows": 2})
    body = space.until(
        "Evaluation", "robbed", lambda o: phase_of(o) in ("Succeeded", "Failed"), seconds=240
    )
    assert phase_of(body) == "Failed"
    (tuned,) = [item for item in body["status"]["candidates"] if item["name"] == "tuned"]
    assert tuned["reason"] == "ModelFilesChanged"
    assert "file artifacts/adapter/adapter_model.safetensors was changed" in tuned["message"]
    assert tuned["counts"]["total"] == 1, "no further attempt could do better"
    # Nor is training continued from it.
    space.create(
        "FineTuneJob",
        "continued",
        {
            "modelRef": {"name": "routed"},
            "continueFrom": "adapter",
            "datasetRef": {"name": "tickets"},
            "hyperparameters": {"maxSteps": 1},
            **LOCAL,
        },
    )
    body = space.until(
        "FineTuneJob", "continued", lambda o: phase_of(o) in ("Succeeded", "Failed"), seconds=240
    )
    assert body["status"]["failure"]["reason"] == "ModelFilesChanged"


def logs(space: Namespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``kubetune logs``."""
    return command(space, "logs", "-n", space.namespace, *arguments)


def command(space: Namespace, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, without the server that this process may have talked to."""
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    return subprocess.run(
        [sys.executable, "-m", "kubetune.cli", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**environment, "KUBECONFIG": str(space.cluster.kubeconfig)},
    )

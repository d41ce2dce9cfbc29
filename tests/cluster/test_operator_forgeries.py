"""What an attacker with every right on MLflow can't do: have a forged or copied result believed.

Real MLflow, with its own client as the attacker's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubetune.api import JsonObject
from kubetune.api.run import plan
from kubetune.api.run.evaluation_plan import TAG_EVALUATION_DIGEST, TAG_EVALUATION_SUMMARY
from kubetune.api.run.outcome import Outcome
from kubetune.attestation import CONFIG_MAP, EnvelopeError, opened
from kubetune_devcluster.cluster import LocalCluster
from mlflow import MlflowClient

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import MEASURED
from tests.cluster.support import eventually
from tests.cluster.tracked_run import logged_run

pytestmark = pytest.mark.cluster

FILES = f"sha256:{'0' * 64}"


@pytest.fixture
def other(cluster: LocalCluster, operator: Operator) -> Iterator[Namespace]:
    """Another team's namespace, with equal inputs."""
    space = Namespace(cluster)
    space.inputs()
    yield space
    space.close()


@pytest.fixture
def attacker(cluster: LocalCluster) -> Any:
    return MlflowClient(cluster.mlflow_url)


def train(space: Namespace, job: str, name: str, **spec: Any) -> None:
    space.job(job, output={"registry": {"name": name, "alias": "champion"}}, **spec)


def finish(space: Namespace, job: str) -> int:
    """Have a job's run end with a model; the version that is made of it."""
    space.phase(job, "Running")
    run_id, model_id = logged_run(space.cluster.mlflow_url, space, job)
    summary: dict[str, Any] = {
        "runId": run_id,
        "modelId": model_id,
        "metrics": {"eval_loss": 0.5},
        "filesDigest": FILES,
        "files": {"adapter_config.json": FILES, "../\n": FILES, "more": "none"},
    }
    space.end(job, outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    return space.phase(job, "Succeeded")["status"]["result"]["registered"]["version"]


def adopted(space: Namespace, job: str) -> JsonObject:
    status = space.phase(job, "Succeeded")["status"]
    assert status["result"]["reused"]
    assert space.runs(job) == []
    return status["result"]


def trains(space: Namespace, job: str, reason: str) -> str:
    """It trains, and says why it adopts nothing."""
    body = space.phase(job, "Running")
    told = condition(body, "Reused")
    assert told[:2] == ("False", reason)
    return told[2]


def copied(attacker: Any, name: str, version: str, into: str, **changed: str) -> str:
    """A version with all that another one says of itself, and with another model."""
    found = attacker.get_model_version(name, version)
    run = attacker.create_run(attacker.get_run(found.run_id).info.experiment_id)
    model = attacker.create_logged_model(run.info.experiment_id, source_run_id=run.info.run_id)
    attacker.finalize_logged_model(model.model_id, "READY")
    made = attacker.create_model_version(
        into,
        f"models:/{model.model_id}",
        run.info.run_id,
        tags=found.tags | changed,
        model_id=model.model_id,
    )
    return made.version


def test_versions_that_look_the_same(jobs: Namespace, attacker: Any) -> None:
    name, elsewhere = f"looks-{jobs.namespace}", f"looks-too-{jobs.namespace}"
    train(jobs, "looks-first", name)
    assert finish(jobs, "looks-first") == 1
    signed = attacker.get_model_version(name, "1")
    assert signed.tags[plan.TAG_SIGNATURE]

    # Newer ones, with tags and signature copied, and with better metrics: ours is found.
    copied(attacker, name, "1", name)
    copied(attacker, name, "1", name, **{plan.TAG_METRICS: '{"eval_loss": 0.0}'})
    train(jobs, "looks-again", name)
    result = adopted(jobs, "looks-again")
    assert result["registered"] == {"name": name, "version": 1, "alias": "champion"}
    assert result["metrics"] == {"evalLoss": "0.5"}
    assert attacker.get_model_version_by_alias(name, "champion").version == "1"

    # Under another name, with the same run and model behind it.
    attacker.create_registered_model(elsewhere)
    attacker.create_model_version(
        elsewhere,
        signed.source,
        signed.run_id,
        tags=signed.tags,
        model_id=signed.source.removeprefix("models:/"),
    )
    train(jobs, "looks-elsewhere", elsewhere)
    assert "looks-too" in trains(jobs, "looks-elsewhere", "SignatureInvalid")
    finish(jobs, "looks-elsewhere")


def test_a_statement_that_everybody_can_check(jobs: Namespace, attacker: Any) -> None:
    name = f"stated-{jobs.namespace}"
    jobs.job("stated", output={"registry": {"name": name}, "modelName": "stated"})
    finish(jobs, "stated")
    body = jobs.get("FineTuneJob", "stated")
    assert body["status"]["result"]["filesDigest"] == FILES
    # What the files must be is known in the cluster, not asked for in MLflow.
    assert jobs.get("Model", "stated")["spec"]["source"]["registry"]["filesDigest"] == FILES

    path = f"/api/v1/namespaces/kubetune-system/configmaps/{CONFIG_MAP}"
    keys = jobs.request("GET", path)["data"]
    version = attacker.get_model_version(name, "1")
    assert version.tags[plan.TAG_FILES] == FILES
    statement = opened(version.tags[plan.TAG_ATTESTATION], keys)
    assert [subject["name"] for subject in statement["subject"]] == [
        plan.FILE_LIST,
        "adapter_config.json",
    ]
    made = statement["predicate"]["buildDefinition"]
    assert made["externalParameters"]["fineTuneJob"] == "stated"
    assert made["externalParameters"]["settings"]["hyperparameters"]["maxSteps"] == 1
    lineage = body["status"]["lineage"]
    assert made["internalParameters"]["lineage"] == lineage
    assert made["internalParameters"]["image"] == "kubetune.local/runner:test"
    rows, model = made["resolvedDependencies"]
    assert rows["digest"] == {"sha256": lineage["datasetDigest"].removeprefix("sha256:")}
    assert model["annotations"]["revision"] == lineage["modelRevision"]
    told = {item["name"]: item["annotations"] for item in byproducts(statement)}
    assert told["metrics"] == {"eval_loss": 0.5}
    assert told["registered"]["version"] == 1
    assert told["registered"]["source"] == version.source
    with pytest.raises(EnvelopeError):
        opened(version.tags[plan.TAG_ATTESTATION].replace("A", "B"), keys)

    verified = verify(jobs, f"{name}/1")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert f"version 1, of FineTuneJob {jobs.namespace}/stated" in verified.stdout
    assert "ok       Dataset rows: sha256:" in verified.stdout
    assert "ok       Model base: sha256:" in verified.stdout
    assert verify(jobs, f"{jobs.namespace}/stated").returncode == 0
    attacker.set_model_version_tag(name, "1", plan.TAG_METRICS, '{"eval_loss": 0.0}')
    verified = verify(jobs, f"{name}/1")
    assert verified.returncode == 1
    assert "CHANGED  metrics: eval_loss 0.5 then, 0.0 now" in verified.stdout
    attacker.create_registered_model(f"{name}-too")
    copied(attacker, name, "1", f"{name}-too")
    verified = verify(jobs, f"{name}-too/1")
    assert verified.returncode == 1
    assert f"CHANGED  version: name {name} then, {name}-too now" in verified.stdout
    attacker.delete_model_version_tag(name, "1", plan.TAG_ATTESTATION)
    verified = verify(jobs, f"{name}/1")
    assert verified.returncode == 1
    assert "CHANGED  signature: it has no statement" in verified.stdout
    # What can't be found is no mismatch.
    assert verify(jobs, f"{name}/7").returncode == 3
    assert verify(jobs, f"{jobs.namespace}/nobody").returncode == 3


def verify(space: Namespace, target: str) -> subprocess.CompletedProcess[str]:
    """``kubetune verify``, without the files, which what is scripted lacks."""
    uri = space.cluster.mlflow_url
    return subprocess.run(
        [sys.executable, "-m", "kubetune.cli", "verify", target, "--no-files"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "KUBECONFIG": str(space.cluster.kubeconfig), "MLFLOW_TRACKING_URI": uri},
    )


def byproducts(statement: JsonObject) -> list[JsonObject]:
    return statement["predicate"]["runDetails"]["byproducts"]


@pytest.mark.parametrize(
    ("case", "change", "reason"),
    [
        (
            "metrics",
            lambda a, n: a.set_model_version_tag(n, "1", plan.TAG_METRICS, '{"eval_loss": 0.0}'),
            "SignatureInvalid",
        ),
        (
            "dataset",
            lambda a, n: a.set_model_version_tag(n, "1", "kubetune.datasetDigest", "sha256:0"),
            "SignatureInvalid",
        ),
        (
            "huge",
            lambda a, n: a.set_model_version_tag(n, "1", plan.TAG_SIGNATURE, "a" * 5000),
            "SignatureInvalid",
        ),
        # As versions are that were registered before they were signed.
        (
            "unsigned",
            lambda a, n: a.delete_model_version_tag(n, "1", plan.TAG_SIGNATURE),
            "SignatureMissing",
        ),
    ],
)
def test_a_version_that_was_changed(
    jobs: Namespace,
    operator: Operator,
    attacker: Any,
    case: str,
    change: Callable[[Any, str], None],
    reason: str,
) -> None:
    name = f"changed-{case}-{jobs.namespace}"
    train(jobs, f"{case}-first", name)
    finish(jobs, f"{case}-first")
    change(attacker, name)
    train(jobs, f"{case}-again", name)
    trains(jobs, f"{case}-again", reason)
    assert finish(jobs, f"{case}-again") == 2
    # The new one is as good as the first was.
    train(jobs, f"{case}-third", name)
    assert adopted(jobs, f"{case}-third")["registered"]["version"] == 2


def test_a_namespace_that_the_targets_admin_trusts(
    jobs: Namespace, other: Namespace, attacker: Any
) -> None:
    name = f"shared-{jobs.namespace}"
    sharing: JsonObject = {"allowedNames": [name]}
    for space in (jobs, other):
        space.patch("ComputeTarget", "scripted", {"spec": {"tracking": {"registry": sharing}}})
        space.ready("ComputeTarget", "scripted")
    train(jobs, "shared-first", name)
    finish(jobs, "shared-first")
    train(other, "shared-second", name)
    said = trains(other, "shared-second", "NamespaceNotTrusted")
    assert jobs.namespace in said
    assert "spec.tracking.registry.trustedNamespaces" in said
    other.end("shared-second", code=1, outcome=None)
    # Nor when it says that it is of the other team.
    attacker.set_model_version_tag(name, "1", plan.TAG_NAMESPACE, other.namespace)
    train(other, "shared-third", name)
    trains(other, "shared-third", "SignatureInvalid")
    attacker.set_model_version_tag(name, "1", plan.TAG_NAMESPACE, jobs.namespace)

    trusting = {"registry": sharing | {"trustedNamespaces": [jobs.namespace]}}
    other.patch("ComputeTarget", "scripted", {"spec": {"tracking": trusting}})
    other.ready("ComputeTarget", "scripted")
    train(other, "shared-fourth", name)
    assert adopted(other, "shared-fourth")["registered"]["version"] == 1


# --- Evaluations


def evaluate(space: Namespace, name: str, target: JsonObject, **fields: Any) -> None:
    spec = {
        "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
        "datasetRef": {"name": "rows"},
        "promptRef": {"name": "ask"},
        "metrics": ["exactMatch"],
        "thresholds": [{"metric": "exactMatch", "min": 0.9}],
    }
    space.create("Evaluation", name, spec | target | fields)


def measure(space: Namespace, attacker: Any, name: str, **changed: Any) -> str:
    """Have the one candidate be measured; its tracked run."""
    assert eventually(lambda: space.runs(name, "Evaluation"))
    (config,) = space.children("ConfigMap", name, "Evaluation")
    given = json.loads(config["data"]["plan.json"])
    key = given["run"]["runKey"]
    experiment = f"kubetune-{space.namespace}"
    found = attacker.get_experiment_by_name(experiment)
    tracked = attacker.create_run(
        found.experiment_id if found else attacker.create_experiment(experiment),
        tags={plan.TAG_RUN_KEY: key, TAG_EVALUATION_DIGEST: given["digest"]},
    )
    summary = MEASURED.to_json() | {"runId": tracked.info.run_id} | changed
    done = Outcome(status="succeeded", reason="Evaluated", summary=summary)
    space.end_run(key, outcome=done)
    return tracked.info.run_id


def ended(space: Namespace, name: str) -> JsonObject:
    body = space.until("Evaluation", name, lambda o: phase_of(o) in ("Succeeded", "Failed"))
    assert phase_of(body) == "Succeeded", body["status"]
    return body


def test_measurements_that_look_the_same(jobs: Namespace, attacker: Any) -> None:
    target = jobs.scripted_target("judging")
    evaluate(jobs, "honest", target)
    run_id = measure(jobs, attacker, "honest")
    ended(jobs, "honest")
    signed = attacker.get_run(run_id)
    tags = signed.data.tags
    assert tags[plan.TAG_SIGNATURE]

    # A newer run with everything copied, and with the results that would pass: ours is found.
    better = json.loads(tags[TAG_EVALUATION_SUMMARY]) | {"metrics": {"exactMatch": {"value": 1.0}}}
    forged = tags | {TAG_EVALUATION_SUMMARY: json.dumps(better)}
    attacker.create_run(signed.info.experiment_id, tags=forged)
    attacker.create_run(signed.info.experiment_id, tags=tags)
    evaluate(jobs, "equal", target)
    body = ended(jobs, "equal")
    (candidate,) = body["status"]["candidates"]
    assert candidate["reused"]
    assert candidate["metrics"][0]["value"] == "0.5"
    assert candidate["mlflow"]["runId"] == run_id
    assert condition(body, "Passed")[:2] == ("False", "ThresholdsMissed")

    # The results of another Evaluation, older and better, as if they were of this one.
    evaluate(jobs, "older", target, seed=7)
    older = measure(jobs, attacker, "older", metrics={"exactMatch": {"value": 1.0}})
    ended(jobs, "older")
    attacker.set_tag(older, TAG_EVALUATION_DIGEST, tags[TAG_EVALUATION_DIGEST])
    # What was measured is changed afterwards.
    attacker.set_tag(run_id, TAG_EVALUATION_SUMMARY, json.dumps(better))
    evaluate(jobs, "changed", target)
    body = jobs.until(
        "Evaluation", "changed", lambda o: jobs.runs("changed", "Evaluation") and o.get("status")
    )
    body = jobs.until("Evaluation", "changed", lambda o: condition(o, "Reused")[0])
    assert condition(body, "Reused")[:2] == ("False", "SignatureInvalid")
    measure(jobs, attacker, "changed")
    body = ended(jobs, "changed")
    assert "reused" not in body["status"]["candidates"][0]
    assert condition(body, "Passed")[:2] == ("False", "ThresholdsMissed")


def test_a_run_signs_nothing_for_another(jobs: Namespace, attacker: Any) -> None:
    """A run says which tracked run is its own: one that isn't is left as it is."""
    target = jobs.scripted_target("naming")
    experiment = attacker.create_experiment(f"foreign-{jobs.namespace}")
    foreign = attacker.create_run(experiment).info.run_id
    evaluate(jobs, "naming", target, seed=11)
    measure(jobs, attacker, "naming", runId=foreign)
    ended(jobs, "naming")
    assert plan.TAG_SIGNATURE not in attacker.get_run(foreign).data.tags
    evaluate(jobs, "naming-again", target, seed=11)
    assert eventually(lambda: jobs.runs("naming-again", "Evaluation"))

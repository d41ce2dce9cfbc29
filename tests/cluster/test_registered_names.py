"""Registered models belong to the namespace that registers the first version."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubetune.api import API_VERSION
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cluster import LocalCluster
from mlflow import MlflowClient

from tests.cluster.namespace import ROWS, Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
from tests.cluster.subjects import BASE, Subjects
from tests.cluster.tenant import OF_KUBETUNE_ALONE, Tenant
from tests.cluster.tracked_run import logged_run

pytestmark = pytest.mark.cluster


@pytest.fixture
def teams(cluster: LocalCluster, operator: Operator) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with inputs, on one MLflow server."""
    spaces = Namespace(cluster), Namespace(cluster)
    for space in spaces:
        space.inputs()
    yield spaces
    for space in spaces:
        space.close()


def train(space: Namespace, job: str, registry: dict[str, Any], **spec: Any) -> None:
    space.job(job, output={"registry": registry}, **spec)


def finish(space: Namespace, job: str) -> dict[str, Any]:
    """Have a job's run end with a model; what is registered."""
    space.phase(job, "Running")
    run_id, model_id = logged_run(space.cluster.mlflow_url, space, job)
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    space.end(job, outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    return space.phase(job, "Succeeded")["status"]["result"]["registered"]


def champion(space: Namespace, name: str) -> int:
    client: Any = MlflowClient(space.cluster.mlflow_url)
    return int(client.get_model_version_by_alias(name, "champion").version)


def test_a_name_of_another_namespace_is_refused_before_anything_runs(
    teams: tuple[Namespace, Namespace],
) -> None:
    ours, theirs = teams
    name = f"support-{ours.namespace}"
    registry = {"name": name, "alias": "champion"}
    train(ours, "first", registry)
    assert finish(ours, "first") == registry | {"version": 1}

    train(theirs, "second", registry)
    body = theirs.phase("second", "Failed")
    message = condition(body, "Failed")[2]
    assert f"belongs to namespace {ours.namespace}" in message
    assert "spec.tracking.registry.allowedNames" in message
    assert theirs.runs("second") == []
    # Neither for the adapter nor for the merged model, whichever is asked for first.
    own = f"own-{theirs.namespace}"
    for job, names in (("merging", (own, name)), ("merged", (name, own))):
        both = {"name": names[0], "mergedName": names[1], "alias": "champion"}
        theirs.job(job, output={"merge": True, "registry": both})
        body = theirs.phase(job, "Failed")
        assert f"belongs to namespace {ours.namespace}" in condition(body, "Failed")[2]
        assert theirs.runs(job) == []
    # Also without the question that comes before the training.
    train(theirs, "third", registry, reuse="Never")
    theirs.phase("third", "Running")
    run_id, model_id = logged_run(theirs.cluster.mlflow_url, theirs, "third")
    summary: dict[str, Any] = {"runId": run_id, "modelId": model_id}
    theirs.end("third", outcome=Outcome(status="succeeded", reason="Trained", summary=summary))
    body = theirs.phase("third", "Failed")
    assert f"belongs to namespace {ours.namespace}" in condition(body, "Failed")[2]

    measured = theirs.scripted_target("measuring")
    spec = {
        "candidates": [{"name": "base", "modelRef": {"name": "base"}}],
        "datasetRef": {"name": "rows"},
        "promptRef": {"name": "ask"},
        "metrics": ["exactMatch"],
        "promote": {"name": name, "alias": "champion"},
        **measured,
    }
    theirs.create("Evaluation", "promoting", spec)
    body = theirs.until("Evaluation", "promoting", lambda o: phase_of(o) == "Failed")
    assert "belongs to namespace" in str(body["status"])
    assert theirs.children("Job", "promoting", "Evaluation") == []
    assert champion(ours, name) == 1


def test_a_name_of_another_namespace_is_not_read(teams: tuple[Namespace, Namespace]) -> None:
    """By nobody: not when it is inspected, nor by whatever names the Model afterwards."""
    ours, theirs = teams
    name = f"secret-{ours.namespace}"
    train(ours, "made", {"name": name, "alias": "champion"})
    finish(ours, "made")
    on_target = theirs.scripted_target("reading")
    subjects = Subjects(theirs, on_target)
    tenant = Tenant(theirs, "reader", OF_KUBETUNE_ALONE)
    try:
        for model, which in (("numbered", {"version": 1}), ("aliased", {"alias": "champion"})):
            source = {"registry": {"name": name, **which}}
            tenant.create("Model", model, {"source": source, **on_target})
            refused(ours, theirs, "Model", model)
        # What MLflow would take for the alias of the name, and the operator for another name.
        spec = {"source": {"registry": {"name": f"{name}@champion?", "version": 1}}}
        body = {"apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": "hidden"}}
        status, _ = tenant.try_request("POST", theirs.path("Model"), body | {"spec": spec})
        assert status == 422

        share(theirs, {"allowedNames": [name]})
        pod = subjects.running("Model", "numbered")
        found = BASE.model_copy(update={"revision": "1"}).to_json()
        outcome = Outcome(status="succeeded", reason="Inspected", summary=found)
        theirs.end_run(subjects.run_key(pod), outcome=outcome)
        theirs.ready("Model", "numbered")
        share(theirs, None)

        candidates = [{"name": "theirs", "modelRef": {"name": "numbered"}}]
        inputs = {"datasetRef": {"name": "rows"}, "promptRef": {"name": "ask"}, **on_target}
        steps = {"hyperparameters": {"maxSteps": 1}}
        tenant.create("FineTuneJob", "uses", {"modelRef": {"name": "numbered"}, **inputs, **steps})
        measured = {"candidates": candidates, "metrics": ["exactMatch"], **inputs}
        tenant.create("Evaluation", "measures", measured)
        rows = {"source": {"inline": {"rows": ROWS}}, "tokenizerRef": {"name": "numbered"}}
        tenant.create("Dataset", "counts", rows | on_target)
        for kind, reader in (("FineTuneJob", "uses"), ("Dataset", "counts")):
            refused(ours, theirs, kind, reader)
        refused(ours, theirs, "Evaluation", "measures")

        share(theirs, {"trustedNamespaces": [ours.namespace]})
        theirs.phase("uses", "Running")
        assert subjects.running("Evaluation", "measures")
        assert subjects.running("Dataset", "counts")
    finally:
        tenant.close()


def refused(ours: Namespace, theirs: Namespace, kind: str, name: str) -> None:
    """It waits, says for what, and nothing was started for it."""
    message = theirs.waits(kind, name, "RegisteredModelNotShared")
    assert f"belongs to namespace {ours.namespace}" in message
    assert "spec.tracking.registry.allowedNames" in message
    assert theirs.children("Job", name, kind) == []


def share(space: Namespace, sharing: dict[str, Any] | None) -> None:
    """What the admin of the target of all readers does."""
    # With the names of before taken back.
    given = {"allowedNames": None, "trustedNamespaces": None, **sharing} if sharing else None
    space.patch("ComputeTarget", "reading", {"spec": {"tracking": {"registry": given}}})


def test_names_that_the_targets_admin_shares(teams: tuple[Namespace, Namespace]) -> None:
    ours, theirs = teams
    name, other = f"shared-{ours.namespace}", f"common-{ours.namespace}"
    for space in teams:
        sharing = {"allowedNames": [name], "prefix": "common-"}
        space.patch("ComputeTarget", "scripted", {"spec": {"tracking": {"registry": sharing}}})
    for shared in (name, other):
        registry = {"name": shared, "alias": "champion"}
        train(ours, f"first-{shared[:6]}", registry)
        assert finish(ours, f"first-{shared[:6]}")["version"] == 1
        train(theirs, f"second-{shared[:6]}", registry, hyperparameters={"maxSteps": 2})
        assert finish(theirs, f"second-{shared[:6]}")["version"] == 2
        assert champion(ours, shared) == 2


def test_what_people_have_made_by_hand_is_for_everybody(
    teams: tuple[Namespace, Namespace],
) -> None:
    ours, theirs = teams
    name = f"by-hand-{ours.namespace}"
    client: Any = MlflowClient(ours.cluster.mlflow_url)
    client.create_registered_model(name)
    train(ours, "one", {"name": name})
    assert finish(ours, "one")["version"] == 1
    train(theirs, "two", {"name": name}, hyperparameters={"maxSteps": 2})
    assert finish(theirs, "two")["version"] == 2


def test_jobs_whose_names_read_alike_have_names_of_their_own(
    teams: tuple[Namespace, Namespace],
) -> None:
    ours, _ = teams
    train(ours, "plain", {})
    assert finish(ours, "plain")["name"] == f"{ours.namespace}_plain"

"""Registered models belong to the namespace that registers the first version."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubetune.api.run.outcome import Outcome
from kubetune_devcluster.cluster import LocalCluster
from mlflow import MlflowClient

from tests.cluster.namespace import Namespace, condition, phase_of
from tests.cluster.operator_process import Operator
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

"""What is true of every tracking server of one type, for rules that differ between types."""

from __future__ import annotations

from dataclasses import dataclass

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec


@dataclass(frozen=True)
class TrackerFacts:
    """The facts of one type of tracking server."""

    name: str
    """In a sentence, as in: left no model in MLflow."""
    registry: str
    """In a sentence: who keeps the versions."""
    answers: str
    """That it answers, with {} for its version."""
    address_field: str
    """The field to look at when it doesn't answer."""
    credentials_field: str
    """The field to look at when it refuses the credentials."""
    has_aliases: bool
    """Versions of its registry can have aliases."""
    needs_experiment_id: bool
    """A version is registered by run and experiment; elsewhere the run is enough."""
    run_page: str
    """Address of a run's page, with {root}, {experiment} and {run}."""


FACTS: dict[str, TrackerFacts] = {
    "mlflow": TrackerFacts(
        name="MLflow",
        registry="MLflow's registry",
        answers="MLflow {} answers",
        address_field="spec.tracking.uri",
        credentials_field="spec.tracking.credentialsSecretRef",
        has_aliases=True,
        needs_experiment_id=False,
        run_page="{root}/#/experiments/{experiment}/runs/{run}",
    ),
    "cml": TrackerFacts(
        name="the workspace's experiments",
        registry="CML's registry",
        answers="{} answer",
        address_field="spec.cml",
        credentials_field="spec.cml.apiKeySecretRef",
        has_aliases=False,
        needs_experiment_id=True,
        # The API doesn't tell where the page of a run is; the workspace is certain.
        run_page="{root}",
    ),
}


def tracker_facts(target: ComputeTargetSpec | None) -> TrackerFacts:
    """The facts of the server that a target's runs report to; MLflow's while none is known."""
    return FACTS[target.tracking.type if target else "mlflow"]

"""Where the findings go: what fits into the termination message, all of it to MLflow."""

from __future__ import annotations

import logging
from typing import Any

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import TAG_RUN_KEY, RunIdentity, TrackingPlan

from kubetune_runner.mlflow.rest import open_api
from kubetune_runner.mlflow.tracking_api import MlflowError, TrackingApi

logger = logging.getLogger(__name__)

ARTIFACT = "inspection.json"


def fit(outcome: Outcome) -> Outcome:
    """Drop columns, then problems, from the summary's end until it fits the message."""
    while True:
        try:
            outcome.to_message()
            return outcome
        except ValueError:
            summary = dict(outcome.summary)
            columns: Any = summary.get("columns") or []
            problems: Any = summary.get("problems") or []
            # Halve the longer one: a table of 200 columns shouldn't hide every problem.
            if len(str(columns)) >= len(str(problems)) and columns:
                summary["columns"] = columns[: len(columns) // 2]
                summary["columnsTruncated"] = True
            elif problems:
                summary["problems"] = problems[: len(problems) // 2]
            else:
                raise
            outcome = outcome.model_copy(update={"summary": summary})


def publish(
    tracking: TrackingPlan, run: RunIdentity, kind: str, document: dict[str, Any]
) -> str | None:
    """Store the report as an artifact; its ``runs:/`` address, or None where that fails.

    Best effort with short timeouts: an inspection doesn't fail because MLflow is away. An
    inspection that is repeated writes into the run it made before.
    """
    try:
        api = open_api(tracking.uri)
        experiment = api.experiment(tracking.experiment)
        run_id, root = run_of(api, experiment, run, kind)
        api.put_artifact(root, ARTIFACT, document)
        api.finish_run(run_id)
    except MlflowError as error:
        logger.warning("the full report is not stored: %s", error)
        return None
    return f"runs:/{run_id}/{ARTIFACT}"


def run_of(api: TrackingApi, experiment: str, run: RunIdentity, kind: str) -> tuple[str, str]:
    """Id and artifact root of the inspection's run, which is made where it is missing."""
    tags = {
        TAG_RUN_KEY: run.run_key,
        "kubetune.install": run.install_id,
        "kubetune.namespace": run.namespace,
        "kubetune.inspection": kind,
    }
    return api.find_run(experiment, TAG_RUN_KEY, run.run_key) or api.create_run(
        experiment, f"{kind} {run.name}", tags
    )

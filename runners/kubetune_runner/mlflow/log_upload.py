"""Stores a run's log in MLflow; a log that can't be stored costs nothing else."""

from __future__ import annotations

import logging
import os
import threading

from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import (
    ENV_ATTEMPT,
    ENV_WORKER,
    TAG_RUN_KEY,
    InspectionPlan,
    RunPlan,
    log_artifact,
)

SECONDS = 20.0
INTERRUPTED_SECONDS = 8.0
"""After a signal the grace period runs."""

log = logging.getLogger(__name__)

AnyPlan = RunPlan | EvaluationRunPlan | InspectionPlan


def store(plan: AnyPlan, outcome: Outcome, text: str) -> None:
    """Store the log as an artifact of the plan's MLflow run, in a bounded time."""
    thread = threading.Thread(target=_try, args=(plan, outcome, text), daemon=True)
    thread.start()
    thread.join(INTERRUPTED_SECONDS if outcome.status == "interrupted" else SECONDS)
    if thread.is_alive():
        log.warning("the log isn't stored in MLflow: no answer in time")


def _try(plan: AnyPlan, outcome: Outcome, text: str) -> None:
    name = log_artifact(int(os.environ.get(ENV_ATTEMPT) or 1), int(os.environ.get(ENV_WORKER) or 0))
    try:
        if isinstance(plan, InspectionPlan):
            _store_inspection(plan, outcome, name, text)
        else:
            _store(plan, name, text)
    except Exception as error:
        # The run has ended as it has, whatever is wrong here.
        log.warning("the log isn't stored in MLflow: %s", (str(error).splitlines() or [""])[0])


def _store(plan: RunPlan | EvaluationRunPlan, name: str, text: str) -> None:
    from kubetune_runner.mlflow import client as mlflow_client

    client = mlflow_client.connect(plan.tracking.uri)
    experiment = mlflow_client.experiment_id(client, plan.tracking.experiment)
    run = mlflow_client.find_run(client, experiment, plan.run.run_key)
    if run is None:
        log.warning("the log isn't stored in MLflow: there is no run")
        return
    mlflow_client.retried(lambda: client.log_text(run.info.run_id, text, name))


def _store_inspection(plan: InspectionPlan, outcome: Outcome, name: str, text: str) -> None:
    """By the small client: MLflow's own takes longer to import than most inspections."""
    from kubetune_runner.inspection.report import run_of
    from kubetune_runner.mlflow.rest import open_api

    if plan.tracking is None:
        return
    api = open_api(plan.tracking.uri)
    experiment = api.experiment(plan.tracking.experiment)
    found = api.find_run(experiment, TAG_RUN_KEY, plan.run.run_key)
    if found is None:
        if outcome.status == "succeeded":
            # One that went well has nothing to tell; most have no run.
            return
        found = run_of(api, experiment, plan.run, plan.kind)
    run_id, root = found
    api.put_text(root, name, text)
    api.finish_run(run_id)

"""A run in a project of Cloudera Machine Learning: the environment and the project's files
stand in for mounts and Secrets, then it is a run like any other.

``cml_entry`` calls ``main``. Below ``.kubetune/runs/<run key>`` all attempts of a job find what
the operator uploaded and what the attempt before them left.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import (
    CHECKPOINT_DIRECTORY,
    CML_FOLDER,
    CML_RUNS_FOLDER,
    ENV_ATTEMPT,
    ENV_PLAN,
    ENV_PLAN_DATA,
    ENV_REQUIRED_VARIABLES,
    ENV_ROOT,
    ENV_RUN_KEY,
    ENV_TOKEN_VARIABLES,
    ENV_WORKER,
    PLAN_FILE,
    PROJECT_DIRECTORY,
    WORK_DIRECTORY,
    decode_plan,
    in_container,
    outcome_path,
)

from kubetune_runner import outcomes
from kubetune_runner.__main__ import ENV_TERMINATION_LOG, execute
from kubetune_runner.cml.workers import Engines
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.signals import StopSignal

TRAINING_PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "mlflow")


def main() -> Outcome:
    """Run the plan in the environment; the working directory is the project's folder."""
    project = Path.cwd()
    run_key, attempt = os.environ[ENV_RUN_KEY], int(os.environ.get(ENV_ATTEMPT) or 1)
    # Set for the workers that worker 0, the job's own run, has launched.
    worker = int(os.environ.get(ENV_WORKER) or 0)
    own = project / outcome_path(run_key, attempt, worker)
    # One that a run of the same attempt left would speak for this one if it is killed.
    own.unlink(missing_ok=True)
    os.environ[ENV_ROOT] = str(project / CML_RUNS_FOLDER / run_key)
    os.environ[ENV_TERMINATION_LOG] = str(own)
    if not os.environ.get("HF_HOME"):
        os.environ["HF_HOME"] = str(project / CML_FOLDER / "cache")
    stop = StopSignal()
    if worker:
        outcome = execute(stop, lambda: _prepare(project))
        stop.restore()
        return outcome
    engines = Engines(project, run_key, attempt)
    try:
        outcome = execute(stop, lambda: engines.launch(_prepare(project)), engines.explain)
    finally:
        engines.close()
    shutil.rmtree(in_container(WORK_DIRECTORY), ignore_errors=True)
    if outcome.status == "succeeded":
        # Checkpoints and the result, which is uploaded: gigabytes on the project's disk.
        shutil.rmtree(in_container(CHECKPOINT_DIRECTORY), ignore_errors=True)
    stop.restore()
    return outcome


def _prepare(project: Path) -> Any:
    """Lay everything out as it is in a container; returns the plan as JSON.

    Raises RunError PlanMissing, PlanInvalid, ProjectVariableMissing, RunnerMissing.
    """
    plan = _plan()
    path = in_container(PLAN_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several workers write the same.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(plan, ensure_ascii=False), encoding="utf-8")
    temporary.replace(path)
    os.environ[ENV_PLAN] = str(path)
    in_container(WORK_DIRECTORY).mkdir(parents=True, exist_ok=True)
    _link(in_container(PROJECT_DIRECTORY), project)
    _take_variables()
    _choose_registry(plan)
    if isinstance(plan, dict) and plan.get("kind", "train") in ("train", "evaluate"):
        _check_packages()
    return plan


def _plan() -> Any:
    text = os.environ.get(ENV_PLAN_DATA)
    if not text:
        raise RunError(
            "PlanMissing",
            f"{ENV_PLAN_DATA} isn't set: kubetune's operator starts the runs of this job;"
            " apply a FineTuneJob, or set suspend to false in it",
        )
    try:
        return decode_plan(text)
    except ValueError as error:
        raise RunError("PlanInvalid", f"{ENV_PLAN_DATA} holds no plan: {error}") from error


def _link(link: Path, project: Path) -> None:
    """Have a path lead to the project, wherever it led before."""
    if link.is_symlink() and link.readlink() == project:
        return
    temporary = link.with_name(f"{link.name}.{uuid.uuid4().hex}")
    temporary.symlink_to(project, target_is_directory=True)
    temporary.replace(link)


def _take_variables() -> None:
    """Check that an admin set what the run needs, and hand over the tokens among it."""
    required = _listed(ENV_REQUIRED_VARIABLES)
    tokens: dict[str, str] = {}
    for pair in _listed(ENV_TOKEN_VARIABLES):
        target, separator, source = pair.partition("=")
        if not separator or not target or not source:
            raise RunError(
                "PlanInvalid",
                f"{ENV_TOKEN_VARIABLES} has {pair!r}, expected TOKEN=VARIABLE: use a runner of"
                " the operator's version",
            )
        tokens[target] = source
    wanted = dict.fromkeys([*required, *tokens.values()])
    missing = [name for name in wanted if not os.environ.get(name)]
    if missing:
        raise RunError(
            "ProjectVariableMissing",
            f"the project lacks the environment variable{'s' * (len(missing) > 1)}"
            f" {', '.join(missing)}: set {'them' if len(missing) > 1 else 'it'} under Project"
            " Settings, Advanced, Environment Variables",
        )
    os.environ.update({target: os.environ[source] for target, source in tokens.items()})


def _listed(variable: str) -> list[str]:
    parts = (part.strip() for part in os.environ.get(variable, "").split(","))
    return [part for part in parts if part]


def _choose_registry(plan: Any) -> None:
    """A registry source is in the registry of the target's tracking server.

    The workspace names its own registry to every workload, also to one that reports elsewhere.
    """
    tracking = plan.get("tracking") if isinstance(plan, dict) else None
    uri = tracking.get("uri") if isinstance(tracking, dict) else None
    preset = os.environ.get(mlflow_client.ENV_REGISTRY_URI, "")
    if isinstance(uri, str) and mlflow_client.in_workspace(preset):
        os.environ[mlflow_client.ENV_REGISTRY_URI] = uri


def _check_packages() -> None:
    """Name all that is missing at once, before anything is downloaded."""
    missing = [name for name in TRAINING_PACKAGES if find_spec(name) is None]
    if missing:
        raise RunError(
            "RunnerMissing",
            f"this runtime has no {', '.join(missing)}; {outcomes.packages_hint()}",
        )

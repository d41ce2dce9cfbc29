"""Jobs and their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from kubetune_devcluster.cml.server.calls import Answer, Call
from kubetune_devcluster.cml.server.errors import exists, invalid, precondition
from kubetune_devcluster.cml.server.projects import inside
from kubetune_devcluster.cml.server.records import Job, Run
from kubetune_devcluster.cml.server.workspace import Workspace

# What only the server sets; a PATCH that holds them is refused.
_FIXED = {"id", "type", "english_schedule", "engine_image_id", "project", "owner", "creator"} | {
    "created_at",
    "updated_at",
}


def list_jobs(call: Call) -> Answer:
    call.workspace.project(call.project_id)
    return _page(call, call.workspace.project_jobs(call.project_id))


def list_all_jobs(call: Call) -> Answer:
    return _page(call, call.workspace.project_jobs())


def get_job(call: Call) -> Answer:
    return _shown(call, _job(call))


def create_job(call: Call) -> Answer:
    workspace, body = call.workspace, dict(call.body)
    workspace.project(call.project_id)
    body.pop("project_id", None)
    environment: dict[str, str] = body.pop("environment", {})
    if parent := body.pop("parent_job_id", None):
        body["parent_id"] = parent
    _check(workspace, call.project_id, body, environment)
    if workspace.behaviour.unique_job_names:
        for job in workspace.project_jobs(call.project_id):
            if job.name == body["name"]:
                raise exists(f"a job with the name {body['name']} exists already")
    return _shown(call, workspace.add_job(call.project_id, body, environment))


def update_job(call: Call) -> Answer:
    job, body = _job(call), dict(call.body)
    if fixed := _FIXED & set(body):
        raise invalid(f"{', '.join(sorted(fixed))} can't be changed")
    environment = job.environment
    if "environment" in body:
        environment = _environment(body.pop("environment"))
    _check(call.workspace, call.project_id, {**job.settings, **body}, environment)
    job.settings.update(body)
    job.environment = environment
    job.updated = call.workspace.clock.now()
    return _shown(call, job)


def delete_job(call: Call) -> Answer:
    job = _job(call)
    active = any(run.active for run in call.workspace.job_runs(job.id))
    if active and call.workspace.behaviour.delete_active_job == "refuse":
        raise precondition(f"job {job.id} has an active run; stop it first")
    call.workspace.remove_job(job)
    return {}


def list_job_runs(call: Call) -> Answer:
    job = _job(call)
    runs = [run for run in call.workspace.job_runs(job.id) if _visible(call, run.created)]
    return call.page([_shown_run(call, run) for run in runs], "job_runs")


def get_job_run(call: Call) -> Answer:
    return _shown_run(call, _run(call))


def create_job_run(call: Call) -> Answer:
    job, workspace, body = _job(call), call.workspace, call.body
    environment: dict[str, str] = body.get("environment", {})
    _check_environment(workspace, {**job.environment, **environment})
    if any(run.active for run in workspace.job_runs(job.id)):
        refuse = workspace.behaviour.second_run == "refuse"
        if not refuse or workspace.behaviour.skipped_history:
            skipped = workspace.add_skipped(job, environment)
            if not refuse:
                return _shown_run(call, skipped)
        raise precondition(f"job run for job {job.id} already active")
    # Also what was there when the job was made may be gone by now.
    _check(workspace, call.project_id, job.settings, job.environment)
    arguments: str = job.settings.get("arguments", "")
    if workspace.behaviour.honour_run_arguments:
        arguments = body.get("arguments", arguments)
    return _shown_run(call, workspace.add_run(job, environment, arguments))


def stop_job_run(call: Call) -> Answer:
    run = _run(call)
    if not run.active and call.workspace.behaviour.stop_ended_run == "refuse":
        raise precondition(f"job run {run.id} is not running")
    call.workspace.stop_run(run)
    return _shown_run(call, run)


def _job(call: Call) -> Job:
    return call.workspace.job(call.project_id, call.path["job_id"])


def _run(call: Call) -> Run:
    call.workspace.settle()
    return call.workspace.run(call.project_id, call.path["job_id"], call.path["run_id"])


def _visible(call: Call, created: float) -> bool:
    workspace = call.workspace
    return workspace.clock.now() >= created + workspace.behaviour.visible_after


def _page(call: Call, jobs: list[Job]) -> Answer:
    return call.page([_shown(call, job) for job in jobs if _visible(call, job.created)], "jobs")


def _shown(call: Call, job: Job) -> dict[str, Any]:
    return _trimmed(call, job.shown(call.workspace.project(job.project_id)))


def _shown_run(call: Call, run: Run) -> dict[str, Any]:
    return _trimmed(call, run.shown(call.workspace.status(run)))


def _trimmed(call: Call, row: dict[str, Any]) -> dict[str, Any]:
    where = call.workspace.behaviour.omit_environment
    if where == "always" or (where == "lists" and call.operation.name.startswith("list_")):
        row.pop("environment")
    return row


def _environment(written: str) -> dict[str, str]:
    """The environment of a PATCH, which is text and not an object."""
    try:
        given = json.loads(written or "{}")
    except ValueError as error:
        raise invalid(f"environment is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise invalid("environment must hold a JSON object")
    found = cast("dict[str, Any]", given)
    if not all(isinstance(value, str) for value in found.values()):
        raise invalid("the values of environment must be text")
    return found


def _check_environment(workspace: Workspace, environment: Mapping[str, str]) -> None:
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise invalid(f'"{name}" is no environment variable')
    size = sum(len(name.encode()) + len(value.encode()) for name, value in environment.items())
    if size > workspace.behaviour.environment_limit:
        limit = workspace.behaviour.environment_limit
        raise invalid(f"the environment has {size} bytes, more than {limit}")


def _check(
    workspace: Workspace,
    project_id: str,
    settings: Mapping[str, Any],
    environment: Mapping[str, str],
) -> None:
    script: str = settings["script"]
    _, path = inside(workspace.files(project_id), script)
    if not path.is_file():
        raise invalid(f"script {script} does not exist in the project")
    workspace.catalog.check_runtime(settings["runtime_identifier"])
    workspace.catalog.check_addons(settings.get("runtime_addon_identifiers", []))
    workspace.catalog.check_gpus(
        settings.get("nvidia_gpu", 0), str(settings.get("accelerator_label_id", ""))
    )
    for name in ("cpu", "memory"):
        if settings.get(name, 1) <= 0:
            raise invalid(f"{name} must be more than 0, got {settings[name]}")
    if int(settings.get("timeout") or 0) < 0:
        raise invalid(f"timeout must not be negative, got {settings['timeout']}")
    if settings.get("parent_id"):
        if settings.get("schedule"):
            raise invalid("a job has either a schedule or a parent")
        workspace.job(project_id, settings["parent_id"])
    _check_environment(workspace, environment)

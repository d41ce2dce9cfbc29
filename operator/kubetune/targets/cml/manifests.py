"""Builds what is sent to CML: the job, its run, and the files that they read.

Pure functions from a RunRequest. The job's name and its environment carry the run key, so a job
whose creation got no answer is found again, and a user's job of the same name is left alone.
"""

from __future__ import annotations

import json
from typing import TypedDict

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.api.run import plan
from kubetune.api.schema.base import SecretKeyRef
from kubetune.clients.cml_models import (
    CreateJobRequest,
    CreateJobRunRequest,
    Job,
    JobChange,
    variables,
)
from kubetune.targets.cml.archive import Runner
from kubetune.targets.cml.offers import Offer
from kubetune.targets.errors import BackendError
from kubetune.targets.kubernetes.environment import OWN_PREFIX
from kubetune.targets.quantities import amount, whole_cpus
from kubetune.targets.values import Made, Owner, RunRequest

NAME_PREFIX = "kubetune"
MAX_PLAN_BYTES = 96 * 1024
"""One environment variable of a Linux process holds 128 KiB."""
_SHORTER: dict[str, str] = {
    "train": "shorten the prompt template or the trainer's arguments, or put a script into the"
    " project and name it by trainer.script.path",
    "evaluate": "shorten the prompt template, the code of spec.functions or the files of"
    " spec.tasks, or measure on a compute target of type kubernetes",
}
"""What to do about a plan that is too large, by the run's purpose."""
INSPECTION_TIMEOUT_SECONDS = 3600
ENV_INSTALL = "KUBETUNE_INSTALL"
ENV_OWNER = "KUBETUNE_OWNER"
ENV_DELETION = "KUBETUNE_DELETION"
"""What becomes of the job when its owner is deleted, in the words of spec.deletionPolicy."""


THREADS = "OMP_NUM_THREADS"


class JobResources(TypedDict, total=False):
    """Resources in the words that jobs and workers share."""

    cpu: float
    memory: float
    nvidia_gpu: int
    accelerator_label_id: str


def job_name(owner: Owner, run_key: str) -> str:
    """Name of the job of a run key; the key makes it unique, the rest is for people."""
    return f"{NAME_PREFIX}-{owner.namespace}-{owner.name}-{run_key}"


def is_ours(job: Job, owner: Owner, run_key: str) -> bool:
    """Whether a job carries the marks of a run key and its owner.

    Whoever may make jobs in the project can copy them: see docs/cml.md.
    """
    told = variables(job.environment)
    return (told.get(plan.ENV_RUN_KEY), told.get(ENV_OWNER)) == (run_key, _named(owner))


def made(job: Job, install_id: str) -> Made | None:
    """For whom this installation has made a job; None when it is another's, or doesn't tell."""
    told = variables(job.environment)
    run_key, deletion = told.get(plan.ENV_RUN_KEY, ""), told.get(ENV_DELETION, "")
    if told.get(ENV_INSTALL) != install_id or not (run_key and deletion):
        return None
    try:
        kind, namespace, name = told.get(ENV_OWNER, "").split("/")
        uid = plan.decode_plan(told.get(plan.ENV_PLAN_DATA, ""))["run"]["uid"]
    except (ValueError, KeyError, TypeError):
        return None
    owner = Owner(API_VERSION, kind, namespace, name, str(uid))
    if job.name != job_name(owner, run_key):
        return None
    return Made(owner, run_key, kept=deletion != "Delete")


def with_deletion(job: Job, *, kept: bool) -> JobChange:
    """The change that says what becomes of a job when its owner is deleted."""
    told = variables(job.environment)
    return JobChange(environment=json.dumps(told | {ENV_DELETION: _deletion(kept=kept)}))


def _named(owner: Owner) -> str:
    return f"{owner.kind}/{owner.namespace}/{owner.name}"


def _deletion(*, kept: bool) -> str:
    return "Orphan" if kept else "Delete"


def build_job(
    request: RunRequest, offer: Offer, script: str, archive: Runner | None
) -> CreateJobRequest:
    """The job: everything that all attempts share.

    Raises BackendError when the plan is too large for an environment variable.
    """
    target = cml_target(request)
    return CreateJobRequest(
        project_id=offer.project_id,
        name=job_name(request.owner, request.run_key),
        script=script,
        # One id: how CML quotes blanks is nowhere said.
        arguments=request.run_key,
        runtime_identifier=offer.runtime,
        runtime_addon_identifiers=list(target.runtime_addons) if target.runtime_addons else None,
        **_resources(request, offer),
        environment=_with_workers(_environment(request, target, archive), request, offer, script),
        timeout=_timeout(request, target),
        kill_on_timeout=True,
    )


def changes(job: Job, request: RunRequest, offer: Offer) -> JobChange | None:
    """What an existing job needs to run with the request's resources and time limit.

    Both may have been changed while the FineTuneJob was suspended; a run keeps what its job had
    when it started.
    """
    wanted = JobChange(
        **_resources(request, offer), timeout=str(_timeout(request, cml_target(request)))
    )
    changed: JsonObject = {
        name: value
        for name, value in wanted.model_dump(exclude_none=True).items()
        if not _same(getattr(job, name), value)
    }
    there = variables(job.environment)
    environment = _with_workers(there, request, offer, job.script)
    if _shape_in(there) != (request.workers, request.processes):
        # Training starts over, with a plan of its own.
        environment[plan.ENV_PLAN_DATA] = _encoded(request)
    environment[ENV_DELETION] = _deletion(kept=request.kept)
    if environment != there:
        changed["environment"] = json.dumps(environment)
    return JobChange.model_validate(changed) if changed else None


def build_run(request: RunRequest) -> CreateJobRunRequest:
    """One run of the job; what differs between attempts travels in its environment."""
    own = {plan.ENV_BATCH: request.batch.variable} if request.batch else {}
    if request.resources.gpu:
        own[plan.ENV_GPUS] = str(request.resources.gpu)
    return CreateJobRunRequest(environment={plan.ENV_ATTEMPT: str(request.attempt), **own})


def input_files(request: RunRequest, config_map: str | None) -> dict[str, bytes]:
    """Files that the run reads below its own root: project path -> content.

    ``config_map`` is the value of the ConfigMap's key, when the dataset is one.
    """
    root = f"{plan.CML_RUNS_FOLDER}/{request.run_key}"
    files: dict[str, bytes] = {}
    if (rows := request.inline_rows_text) is not None:
        files[root + plan.INLINE_ROWS_FILE] = rows.encode()
    if request.dataset_config_map and config_map is not None:
        key = request.dataset_config_map[1]
        files[f"{root}{plan.DATASET_DIRECTORY}/{key}"] = config_map.encode()
    return files


def cml_target(request: RunRequest) -> CmlTarget:
    """The request's target. Raises ValueError when it is of another type."""
    if request.target.cml is None:
        raise ValueError("request.target.cml is missing: this is no CML target")
    return request.target.cml


def _resources(request: RunRequest, offer: Offer) -> JobResources:
    resources = request.resources
    found: JobResources = {
        "cpu": float(amount(resources.cpu or "1")),
        "memory": float(amount(resources.memory or "4Gi") / 2**30),
        "nvidia_gpu": resources.gpu or 0,
    }
    if offer.accelerator_label_id is not None and resources.gpu:
        found["accelerator_label_id"] = offer.accelerator_label_id
    return found


def _same(there: object, wanted: object) -> bool:
    """Whether a field of an answer, which may be text, holds a number or id that is wanted."""
    try:
        return float(str(there)) == float(str(wanted))
    except ValueError:
        return str(there) == str(wanted)


def _with_workers(
    environment: dict[str, str], request: RunRequest, offer: Offer, script: str
) -> dict[str, str]:
    """The environment with what a run needs to start workers and processes, where it does."""
    environment = environment | _threads(request)
    if request.workers == 1:
        return environment
    added = {
        plan.ENV_SCRIPT: script,
        plan.ENV_WORKER_RESOURCES: json.dumps(_resources(request, offer)),
    }
    of_runs = {plan.ENV_ATTEMPT, plan.ENV_BATCH, plan.ENV_GPUS}
    names = {*environment, *added, *of_runs} - {plan.ENV_WORKER_VARIABLES}
    return environment | added | {plan.ENV_WORKER_VARIABLES: ",".join(sorted(names))}


def _threads(request: RunRequest) -> dict[str, str]:
    """Its share of the CPUs for each of several processes, unless the target says otherwise."""
    given = {variable.name for variable in cml_target(request).env or ()}
    if request.processes == 1 or THREADS in given:
        return {}
    return {THREADS: str(max(1, whole_cpus(request.resources.cpu) // request.processes))}


def _shape_in(environment: dict[str, str]) -> tuple[int, int]:
    """How many workers the plan of a job has, and processes in each."""
    try:
        found = plan.decode_plan(environment.get(plan.ENV_PLAN_DATA, ""))
        return int(found.get("workers", 1)), int(found.get("processes", 1))
    except (ValueError, AttributeError, TypeError):
        return 1, 1


def _encoded(request: RunRequest) -> str:
    """The plan as a variable. Raises BackendError when it is too large for one."""
    encoded = plan.encode_plan(request.plan)
    if len(encoded) > MAX_PLAN_BYTES:
        raise BackendError(
            Reason.PLAN_TOO_LARGE,
            f"the run's plan has {len(encoded)} bytes compressed, and an environment variable of"
            f" CML takes {MAX_PLAN_BYTES}: {_SHORTER.get(request.purpose, _SHORTER['train'])}",
            retryable=False,
        )
    return encoded


def _environment(request: RunRequest, target: CmlTarget, archive: Runner | None) -> dict[str, str]:
    encoded = _encoded(request)
    given = {variable.name: variable.value for variable in target.env or ()}
    values = {name: value for name, value in given.items() if not name.startswith(OWN_PREFIX)} | {
        plan.ENV_RUN_KEY: request.run_key,
        plan.ENV_PLAN_DATA: encoded,
        ENV_OWNER: _named(request.owner),
        ENV_DELETION: _deletion(kept=request.kept),
        ENV_INSTALL: str((request.plan.get("run") or {}).get("installId", "")),
        "MLFLOW_TRACKING_URI": request.target.tracking.run_uri,
    }
    if archive:
        values[plan.ENV_RUNNER_ARCHIVE] = archive.archive_path
        values[plan.ENV_RUNNER_SHA256] = archive.archive_sha256
    if names := request.target.code_variables:
        values[plan.ENV_CODE_VARIABLES] = ",".join(names)
    if target.required_variables:
        values[plan.ENV_REQUIRED_VARIABLES] = ",".join(target.required_variables)
    if request.tokens:
        values[plan.ENV_TOKEN_VARIABLES] = ",".join(
            f"{name}={_project_variable(name, secret, target)}"
            for name, secret in sorted(request.tokens.items())
        )
    return values


def _project_variable(name: str, secret: SecretKeyRef, target: CmlTarget) -> str:
    """The variable of the project that stands in for a key of a Secret."""
    # One token reads all that is on the hub; endpoints of judges must not get to see it.
    return secret.key if name.startswith(plan.ENV_JUDGE_KEY) else target.hub_token_variable


def _timeout(request: RunRequest, target: CmlTarget) -> int:
    """Seconds after which CML kills a run: the guard for days without an operator."""
    if request.purpose == "inspect":
        return min(INSPECTION_TIMEOUT_SECONDS, target.timeout_seconds)
    return min(request.deadline_seconds or target.timeout_seconds, target.timeout_seconds)

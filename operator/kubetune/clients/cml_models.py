"""Objects of a CML workspace's API, as far as the operator reads or sends them.

Classes and fields are called as in the API, so that they can be compared with it one by one. The
API leaves out what is empty or zero: every field of an answer has a default, and what must be
there is said by the operation.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from kubetune.api.bounded import PLAN, json_value


def _moment(value: Any, read: ValidatorFunctionWrapHandler) -> datetime | None:
    """A time; none when it can't be read, or was never set, which comes as the year 1."""
    try:
        found: datetime | None = read(value)
    except ValidationError:
        return None
    if found is None or found.year <= 1:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text_of(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict) else value


Moment = Annotated[datetime | None, WrapValidator(_moment)]
Environment = Annotated[str, BeforeValidator(_text_of)]
"""Variables, which the API gives as the text of a JSON object."""


def variables(environment: str) -> dict[str, str]:
    """The variables in the text of an environment; none when it holds something else."""
    try:
        given: Any = json_value(environment or "{}", PLAN)
    except ValueError:
        return {}
    if not isinstance(given, dict):
        return {}
    found = cast("dict[str, Any]", given)
    return {name: value if isinstance(value, str) else str(value) for name, value in found.items()}


class Answer(BaseModel):
    """A part of an answer; fields that the operator doesn't use are dropped."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, coerce_numbers_to_str=True, protected_namespaces=()
    )
    api_name: ClassVar[str] = ""
    """The model's name in the API where the class has another."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """Null says no more than a missing field, and nothing in a list."""
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, Any]", value)
        return {key: _present(item) for key, item in given.items() if item is not None}


def _present(item: Any) -> Any:
    if not isinstance(item, list):
        return item
    return [one for one in cast("list[Any]", item) if one is not None]


class Body(BaseModel):
    """What is sent; fields without a value are left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    api_name: ClassVar[str] = ""


class Nothing(Answer):
    """An answer that holds nothing, or nothing of interest."""


class Tag(Answer):
    """A key and a value; parameters come as such too."""

    key: str = ""
    value: str = ""


class ShortUser(Answer):
    username: str = ""


# --- projects and files


class Project(Answer):
    id: str = ""
    name: str = ""
    creation_status: str = ""
    environment: Environment = ""


class CreateProjectRequest(Body):
    name: str | None = None
    template: str | None = None
    git_url: str | None = None
    git_ref: str | None = None
    visibility: str | None = None
    default_project_engine_type: str | None = None


# --- jobs


class ShortProject(Answer):
    slug: str = ""


class Job(Answer):
    id: str = ""
    name: str = ""
    script: str = ""
    cpu: float = 0.0
    memory: float = 0.0
    nvidia_gpu: int = 0
    accelerator_label_id: str = ""
    timeout: str = ""
    environment: Environment = ""
    project: ShortProject = ShortProject()
    creator: ShortUser = ShortUser()
    created_at: Moment = None


class CreateJobRequest(Body):
    project_id: str | None = None
    name: str | None = None
    script: str | None = None
    arguments: str | None = None
    runtime_identifier: str | None = None
    runtime_addon_identifiers: list[str] | None = None
    cpu: float | None = None
    memory: float | None = None
    nvidia_gpu: int | None = None
    accelerator_label_id: str | None = None
    environment: dict[str, str] | None = None
    timeout: int | None = None
    kill_on_timeout: bool | None = None


class JobChange(Body):
    """What changes in a job. Other than in a request for one, its environment is text."""

    api_name: ClassVar[str] = "Job"

    cpu: float | None = None
    memory: float | None = None
    nvidia_gpu: int | None = None
    accelerator_label_id: str | None = None
    timeout: str | None = None
    environment: str | None = None


class JobRun(Answer):
    id: str = ""
    job_id: str = ""
    status: str = ""
    environment: Environment = ""
    created_at: Moment = None
    scheduling_at: Moment = None
    starting_at: Moment = None
    running_at: Moment = None
    finished_at: Moment = None


class CreateJobRunRequest(Body):
    environment: dict[str, str] | None = None


# --- what a workspace offers


class Runtime(Answer):
    image_identifier: str = ""
    editor: str = ""
    kernel: str = ""
    edition: str = ""
    full_version: str = ""
    status: str = ""


class RuntimeAddon(Answer):
    identifier: str = ""
    status: str = ""


class AcceleratorNodeLabel(Answer):
    """Its numbers are text."""

    id: str = ""
    label_key: str = ""
    label_value: str = ""
    max_gpu_count: str = ""
    current_gpu_count: str = ""
    max_gpu_per_workload: str = ""


class UserOrGroupInfo(Answer):
    user_name: str = ""


class Quota(Answer):
    """CPUs, gigabytes and GPUs, as text."""

    cpu: str = ""
    memory: str = ""
    nvidia_gpu: str = ""


class UserQuota(Answer):
    user: UserOrGroupInfo = UserOrGroupInfo()
    quota_usage: Quota = Quota()
    quota_configured: Quota = Quota()


class K8SInfo(Answer):
    k8s_exit_code: int | None = None
    k8s_reason: str = ""
    k8s_message: str = ""


class UsageResponse(Answer):
    """A row of the list of workloads, which tells why one ended."""

    id: str = ""
    name: str = ""
    message: str = ""
    oom_killed: bool = False
    created_at: Moment = None
    k8s_info: K8SInfo = K8SInfo()


# --- experiments


class Experiment(Answer):
    id: str = ""
    name: str = ""
    lifecycle_stage: str = ""
    created_at: Moment = None


class CreateExperimentRequest(Body):
    project_id: str | None = None
    name: str | None = None


class Metric(Answer):
    key: str = ""
    value: float = 0.0
    timestamp: Moment = None
    step: str = ""


class ExperimentRunData(Answer):
    metrics: list[Metric] = []
    tags: list[Tag] = []


class ExperimentRun(Answer):
    id: str = ""
    experiment_id: str = ""
    status: str = ""
    start_time: Moment = None
    data: ExperimentRunData | None = None


class LogExperimentRunBatchRequest(Body):
    project_id: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    tags: list[Tag] | None = None


# --- the registry


class MLflowMetadata(Answer):
    experiment_id: str = ""
    run_id: str = ""
    tags: list[Tag] = []


class ModelVersionMetadata(Answer):
    project_id: str = ""
    tags: list[Tag] = []
    mlflow_metadata: MLflowMetadata = MLflowMetadata()


class RegisteredModelVersion(Answer):
    model_id: str = ""
    model_version_id: str = ""
    number: int = 0
    notes: str = ""
    status: str = ""
    tags: list[Tag] = []
    created_at: Moment = None
    model_version_metadata: ModelVersionMetadata | None = None


class RegisteredModelDetails(Answer):
    model_id: str = ""
    name: str = ""


class RegisteredModel(Answer):
    model_id: str = ""
    model_versions: list[RegisteredModelVersion] = []


class CreateRegisteredModelRequest(Body):
    project_id: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    model_path: str | None = None
    model_name: str | None = None
    tags: list[Tag] | None = None
    notes: str | None = None
    visibility: str | None = None

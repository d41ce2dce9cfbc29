"""The operations of a CML workspace that the operator calls, and all that it says and hears.

Names, arguments and models are those of the API: the tests compare each entry with what
workspaces offer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from kubetune.clients import cml_models as models
from kubetune.clients.cml_models import Answer, Body

A = TypeVar("A", bound=Answer)

PROJECT = ("project_id",)
JOB = ("project_id", "job_id")
RUN = ("project_id", "job_id", "run_id")
EXPERIMENT = ("project_id", "experiment_id")
EXPERIMENT_RUN = ("project_id", "experiment_id", "run_id")
VERSION = ("model_id", "version_id")


@dataclass(frozen=True)
class Operation(Generic[A]):
    """One operation; ``ids`` are its arguments in their order, behind the body if it has one."""

    name: str
    ids: tuple[str, ...]
    answer: type[A]
    body: type[Body] | None = None
    options: tuple[str, ...] = ()
    key: str = ""
    """Field without which the answer, or an item of a list, is of no use."""

    def check(self, ids: tuple[str, ...], body: Body | None, options: set[str]) -> None:
        """Raises TypeError for a call that the operation doesn't have."""
        expected = self.body or type(None)
        if len(ids) != len(self.ids) or not isinstance(body, expected) or options - self.allowed:
            raise TypeError(
                f"{self.name} takes {expected.__name__}, {', '.join(self.ids)} and of options"
                f" {sorted(self.allowed)}; got {type(body).__name__}, {ids} and {sorted(options)}"
            )

    @property
    def allowed(self) -> set[str]:
        """The options that a call may have."""
        return {*self.options}


@dataclass(frozen=True)
class Listing(Operation[A]):
    """An operation that answers with pages; ``answer`` is what one item is."""

    items: str = ""
    """Field of the answer that holds the items."""
    of: str = ""
    """Name of the answer's model."""

    @property
    def allowed(self) -> set[str]:
        """The options that a call may have."""
        return {*self.options, "page_size", "page_token"}


LIST_PROJECTS = Listing(
    "list_projects",
    (),
    models.Project,
    options=("search_filter",),
    key="id",
    items="projects",
    of="ListProjectsResponse",
)
GET_PROJECT = Operation("get_project", PROJECT, models.Project, key="id")
CREATE_PROJECT = Operation("create_project", (), models.Nothing, models.CreateProjectRequest)
DELETE_PROJECT_FILE = Operation("delete_project_file", ("project_id", "path"), models.Nothing)

LIST_JOBS = Listing("list_jobs", PROJECT, models.Job, key="id", items="jobs", of="ListJobsResponse")
GET_JOB = Operation("get_job", JOB, models.Job, key="id")
CREATE_JOB = Operation("create_job", PROJECT, models.Job, models.CreateJobRequest, key="id")
UPDATE_JOB = Operation("update_job", JOB, models.Nothing, models.JobChange)
DELETE_JOB = Operation("delete_job", JOB, models.Nothing)

LIST_JOB_RUNS = Listing(
    "list_job_runs", JOB, models.JobRun, key="id", items="job_runs", of="ListJobRunsResponse"
)
GET_JOB_RUN = Operation("get_job_run", RUN, models.JobRun, key="id")
CREATE_JOB_RUN = Operation(
    "create_job_run", JOB, models.JobRun, models.CreateJobRunRequest, key="id"
)
STOP_JOB_RUN = Operation("stop_job_run", RUN, models.Nothing)

LIST_RUNTIMES = Listing(
    "list_runtimes", (), models.Runtime, items="runtimes", of="ListRuntimesResponse"
)
LIST_RUNTIME_ADDONS = Listing(
    "list_runtime_addons",
    (),
    models.RuntimeAddon,
    items="runtime_addons",
    of="ListRuntimeAddonsResponse",
)
LIST_ACCELERATORS = Listing(
    "list_all_accelerator_node_labels",
    (),
    models.AcceleratorNodeLabel,
    items="accelerator_node_label",
    of="ListAllAcceleratorsNodeLabelsResponse",
)
LIST_USERS_QUOTA = Listing(
    "list_users_quota", (), models.UserQuota, items="user_quota", of="ListUsersQuotaResponse"
)
LIST_USAGE = Listing(
    "list_usage",
    (),
    models.UsageResponse,
    options=("sort",),
    items="usage_response",
    of="ListUsageResponse",
)

LIST_EXPERIMENTS = Listing(
    "list_experiments",
    PROJECT,
    models.Experiment,
    key="id",
    items="experiments",
    of="ListExperimentsResponse",
)
CREATE_EXPERIMENT = Operation(
    "create_experiment", PROJECT, models.Experiment, models.CreateExperimentRequest, key="id"
)
LIST_EXPERIMENT_RUNS = Listing(
    "list_experiment_runs",
    EXPERIMENT,
    models.ExperimentRun,
    key="id",
    items="experiment_runs",
    of="ListExperimentRunsResponse",
)
GET_EXPERIMENT_RUN = Operation("get_experiment_run", EXPERIMENT_RUN, models.ExperimentRun, key="id")
LOG_EXPERIMENT_RUN_BATCH = Operation(
    "log_experiment_run_batch", EXPERIMENT_RUN, models.Nothing, models.LogExperimentRunBatchRequest
)

LIST_REGISTERED_MODELS = Listing(
    "list_registered_models",
    (),
    models.RegisteredModelDetails,
    key="model_id",
    items="models",
    of="ListRegisteredModelsResponse",
)
LIST_REGISTERED_VERSIONS = Listing(
    "get_registered_model",
    ("model_id",),
    models.RegisteredModelVersion,
    key="model_version_id",
    items="model_versions",
    of="RegisteredModel",
)
CREATE_REGISTERED_MODEL = Operation(
    "create_registered_model", (), models.RegisteredModel, models.CreateRegisteredModelRequest
)
GET_REGISTERED_VERSION = Operation(
    "get_registered_model_version", VERSION, models.RegisteredModelVersion, key="model_version_id"
)
DELETE_REGISTERED_VERSION = Operation("delete_registered_model_version", VERSION, models.Nothing)

UPLOAD_FILE = ("POST", "/api/v2/projects/{project_id}/files")
"""Called by its path: the package's own method names every file after the one it reads."""
DOWNLOAD_FILE = Operation("download_project_file", ("project_id", "path"), models.Nothing)
"""Answers with bytes."""

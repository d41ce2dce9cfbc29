"""What the operator hands to a run: one frozen document, everything resolved, no secrets.

The runner reads it from the file that KUBETUNE_PLAN names and decides no defaults. Paths are
paths in the container (``in_container`` adds $KUBETUNE_ROOT where volumes can't be mounted).
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from kubetune.api.bounded import PLAN, decoded, inflated, json_object
from kubetune.api.kinds.dataset.sources import HubSource, ReadFrom
from kubetune.api.kinds.dataset.spec import ColumnMapping, Splits
from kubetune.api.kinds.prompt_template.spec import TemplateMessage
from kubetune.api.rows import DatasetFormat
from kubetune.api.run.training_plan import TrainingPlan
from kubetune.api.schema.base import PlanValue
from kubetune.api.schema.rules import Rule, exactly_one
from kubetune.api.training.settings import Strategy

PLAN_VERSION = 1

# Where the operator mounts things and the runner finds them.
PLAN_DIRECTORY = "/kubetune/plan"
"""ConfigMap with plan.json and, for inline data, rows.jsonl."""
PLAN_FILE = f"{PLAN_DIRECTORY}/plan.json"
INLINE_ROWS_FILE = f"{PLAN_DIRECTORY}/rows.jsonl"
DATASET_DIRECTORY = "/kubetune/dataset"
"""The Dataset's claim or ConfigMap, read-only."""
MODEL_DIRECTORY = "/kubetune/model"
"""The Model's claim, read-only."""
BASE_MODEL_DIRECTORY = "/kubetune/base-model"
"""The claim of an adapter's base model, read-only."""
PROJECT_DIRECTORY = "/kubetune/project"
"""The CML project's files."""
WORK_DIRECTORY = "/kubetune/work"
"""Scratch space, an emptyDir."""
CHECKPOINT_DIRECTORY = "/kubetune/checkpoints"
"""The checkpoint claim; the run uses the folder named by its run key below it."""
CACHE_DIRECTORY = "/kubetune/cache"
"""HF_HOME: the model cache claim or an emptyDir."""

# Environment of a run.
ENV_PLAN = "KUBETUNE_PLAN"
ENV_ATTEMPT = "KUBETUNE_ATTEMPT"
"""1 for the first attempt."""
ENV_BATCH = "KUBETUNE_BATCH"
"""``4x2``: batch and accumulation of an attempt that has other ones than the plan says."""
ENV_GPUS = "KUBETUNE_GPUS"
"""How many GPUs the run was given, which it looks for before it trains."""
ENV_RUN_KEY = "KUBETUNE_RUN_KEY"
ENV_ROOT = "KUBETUNE_ROOT"
ENV_CODE_VARIABLES = "KUBETUNE_CODE_VARIABLES"
"""Names of variables that code of users is given, with commas between."""
ENV_WORKER = "KUBETUNE_WORKER"
"""Number of this worker, from 0, in a run of several."""
ENV_PROCESS = "KUBETUNE_PROCESS"
"""Number of this process in its worker, from 0, where a worker has several."""
ENV_RENDEZVOUS = "KUBETUNE_RENDEZVOUS"
"""``host:port`` where worker 0 waits for the others."""
ENV_PEERS_AT = "KUBETUNE_PEERS_AT"
"""Address of all workers on a process node, which has no DNS for the rendezvous' host."""
ENV_DATASET_TOKEN = "KUBETUNE_DATASET_TOKEN"
"""Hub token for the dataset, from its Secret."""
ENV_MODEL_TOKEN = "KUBETUNE_MODEL_TOKEN"
ENV_BASE_MODEL_TOKEN = "KUBETUNE_BASE_MODEL_TOKEN"
ENV_JUDGE_KEY = "KUBETUNE_JUDGE_KEY_"
"""With the judge's place in the plan, from 0, behind it: its API key, from its Secret."""

# Environment of a run on CML, which has neither mounts nor Secrets.
ENV_PLAN_DATA = "KUBETUNE_PLAN_DATA"
"""The plan as base64 of zlib of JSON (``encode_plan``)."""
ENV_REQUIRED_VARIABLES = "KUBETUNE_REQUIRED_VARIABLES"
"""Names of project variables that must be set, separated by commas."""
ENV_TOKEN_VARIABLES = "KUBETUNE_TOKEN_VARIABLES"
"""``KUBETUNE_MODEL_TOKEN=HF_TOKEN,...``: which project variable a token is taken from."""
ENV_RUNNER_ARCHIVE = "KUBETUNE_RUNNER_ARCHIVE"
ENV_RUNNER_SHA256 = "KUBETUNE_RUNNER_SHA256"
"""Project file ``.kubetune/kubetune-<digest>.zip`` with the runner; none: it is installed."""
ENV_SCRIPT = "KUBETUNE_SCRIPT"
"""Project file that starts a further worker: the job's own script."""
ENV_WORKER_VARIABLES = "KUBETUNE_WORKER_VARIABLES"
"""Names of the variables that a run passes on to its further workers, separated by commas."""
ENV_WORKER_RESOURCES = "KUBETUNE_WORKER_RESOURCES"
"""JSON with what ``launch_workers`` takes for each further worker: cpu, memory, nvidia_gpu."""
CML_FOLDER = ".kubetune"
"""Folder of the project that is kubetune's."""
CML_RUNS_FOLDER = f"{CML_FOLDER}/runs"
"""Below it a folder for each run key, which is $KUBETUNE_ROOT of its runs."""

# Tags of the MLflow run and of registered versions.
TAG_RUN_KEY = "kubetune.run_key"
TAG_INSTALL = "kubetune.install"
TAG_PHASE = "kubetune.phase"
"""preparing, then each of ``stages.STAGES`` as it begins, then succeeded, failed or interrupted."""
TAG_TOTAL_STEPS = "kubetune.total_steps"
TAG_ATTEMPT = "kubetune.attempt"
TAG_PROGRESS = "kubetune.progress"
"""JSON of what belongs together: the attempt, its stage, step and eta, newest loss and the like.

Of each metric MLflow shows the value of the highest step, which after a step back is an old one.
"""
SHOWN_METRICS = ("epoch", "loss", "eval_loss", "learning_rate")
"""Metrics that the tag has besides those of kubetune itself."""
TOLD_CHECKPOINT = "checkpoint_step"
"""In the tag: the step of the newest whole checkpoint, 0 when an attempt has begun without one."""
TOLD_CHECKPOINT_TIME = "checkpoint_time"
"""In the tag: when it became whole, seconds since the epoch."""
TAG_METRICS = "kubetune.metrics"
"""Of a run and of a version: the final metrics of the result as JSON. What the user's own code logs
under the same names doesn't touch it."""
PARAMETER_PREFIX = "kubetune."
"""Of the parameters that kubetune logs: a script may log any others, and none can change."""
TAG_MODEL_ID = "kubetune.model_id"
"""Logged model of a run that succeeded."""
TAG_MODEL_PATH = "kubetune.model_path"
"""Folder of the model among the run's artifacts, where the server keeps no logged models."""
TAG_MERGED_MODEL_ID = "kubetune.merged_model_id"
TAG_MERGED_MODEL_PATH = "kubetune.merged_model_path"
"""The same of the merged model, where one was asked for."""
TAG_FILES = "kubetune.files_digest"
"""Of a run and of a version: the digest of FILE_LIST, which stands for all files of the model."""
TAG_MERGED_FILES = "kubetune.merged_files_digest"
FILE_LIST = "kubetune_files.json"
"""At the top of a stored model: the digest of every other file, by its path."""
NOT_LISTED = frozenset({FILE_LIST, "registered_model_meta"})
"""Files at the top that the list leaves out: itself, and one with name and number of the version,
which MLflow's client writes when it downloads that, over any that is there, and never reads."""
FILES_DIGEST = r"^sha256:[0-9a-f]{64}$"
OUTCOME_TAG = "kubetune.outcome."
"""Begins ``outcome_tag``."""
TAG_LINEAGE = "kubetune.lineage_digest"
TAG_LM_HEAD = "kubetune.lm_head"
"""``model`` where trl's faster head gives other losses than the model's own, which trained."""
TAG_SIGNATURE = "kubetune.signature"
"""The operator's own, on versions that it has registered and runs whose results it has taken."""
TAG_ATTESTATION = "kubetune.attestation"
"""Of a version: an in-toto statement of what it was made of, in a signed envelope (DSSE)."""
TAG_BATCH = "kubetune.perDeviceBatchSize"
"""Of a run and of a version: what the newest attempt trained with, where that isn't the declared
hyperparameter, which the parameters of the run have."""
TAG_ACCUMULATION = "kubetune.gradientAccumulationSteps"
TAG_NAMESPACE = "kubetune.namespace"
TAG_JOB = "kubetune.job"

METRIC_STEP = "kubetune_step"
"""Optimizer steps done; the MLflow step of every metric is the optimizer step too."""
METRIC_ETA = "kubetune_eta_seconds"
METRIC_TOKENS_PER_SECOND = "tokens_per_second"


def in_container(path: str) -> Path:
    """The path as this process sees it: below $KUBETUNE_ROOT where mounts aren't possible."""
    root = os.environ.get(ENV_ROOT)
    return Path(root) / path.lstrip("/") if root else Path(path)


def outcome_tag(attempt: int) -> str:
    """The tag of the MLflow run that tells an attempt's outcome on CML, too."""
    return f"{OUTCOME_TAG}{attempt}"


def log_artifact(attempt: int, worker: int = 0) -> str:
    """The artifact of the MLflow run that holds what a worker of an attempt has printed."""
    own = f"-worker-{worker}" if worker else ""
    return f"logs/attempt-{attempt}{own}.log"


def outcome_path(run_key: str, attempt: int, worker: int = 0) -> str:
    """The project file on CML that holds an attempt's outcome: worker 0's, which leads."""
    own = f"-worker-{worker}" if worker else ""
    return f"{CML_RUNS_FOLDER}/{run_key}/outcome-{attempt}{own}.json"


def encode_plan(plan: dict[str, Any]) -> str:
    """A plan as one environment variable."""
    text = json.dumps(plan, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def decode_plan(text: str) -> dict[str, Any]:
    """The plan of ``encode_plan``. Raises ValueError when it is none."""
    try:
        packed = decoded(text, PLAN, partial(base64.b64decode, validate=True))
        return json_object(inflated(packed, PLAN), PLAN)
    except ValueError as error:
        raise ValueError(f"the plan can't be read: {error}") from error


class RunIdentity(PlanValue):
    """Who the run belongs to."""

    install_id: str
    run_key: str
    namespace: str
    name: str
    uid: str
    report_key: str | None = None
    """With it the run vouches for what it says in tags of its tracked run (``vouched``). It proves
    nothing of other runs, and stays out of everything that the run tracks."""


class DatasetPlan(ReadFrom):
    """Rows, how to split them, and how they looked at inspection."""

    name: str
    refuse_hidden: bool | None = None
    """Whether rows end a run whose training text doesn't show everything that they have."""
    format: DatasetFormat
    columns: ColumnMapping
    splits: Splits
    digest: str | None = None
    """Content digest from the inspection, ``sha256:...``; None in an inspection."""
    split_digest: str | None = None
    source: str | None = None
    """Where the rows are, as users know it; not a path of this container."""


class ModelPlan(PlanValue):
    """A model that the run loads."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("hub", "directory", "registry_uri"),)

    name: str
    type: Literal["base", "adapter"] | None = None
    """From the inspection; None in an inspection."""
    hub: HubSource | None = None
    directory: str | None = None
    """Absolute path in the container."""
    registry_uri: str | None = None
    """``models:/name/version`` or ``models:/name@alias``; read from the tracking server."""
    revision: str | None = None
    """Commit, registry version or content digest from the inspection."""
    files_digest: str | None = None
    """What the list of its files must have; they are compared before anything is loaded. None: the
    model was not made by a training that is known."""
    trust_remote_code: bool = False
    base: ModelPlan | None = None
    """The base model of an adapter."""
    source: str | None = None
    """Where it is, as users know it; not a path of this container."""


class PromptPlan(PlanValue):
    """A PromptTemplate: prompt and completion, or messages."""

    prompt: str | None = None
    completion: str | None = None
    messages: list[TemplateMessage] | None = None


class TrackingPlan(PlanValue):
    """The MLflow server. Credentials come from the environment, by MLflow's own names."""

    uri: str
    experiment: str


class BatchPlan(PlanValue):
    """What an attempt trains with instead of what is declared, since that took too much memory.

    An optimizer step learns from as many rows either way.
    """

    per_device_batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)

    @property
    def variable(self) -> str:
        """As the environment of the attempt has it."""
        return f"{self.per_device_batch_size}x{self.gradient_accumulation_steps}"

    @staticmethod
    def of_environment() -> BatchPlan | None:
        """That of this attempt, where it has one. Raises ValueError when it can't be read."""
        text = os.environ.get(ENV_BATCH)
        if not text:
            return None
        size, _, accumulation = text.partition("x")
        return BatchPlan(
            per_device_batch_size=int(size), gradient_accumulation_steps=int(accumulation)
        )


class RunPlan(PlanValue):
    """A training run."""

    version: Literal[1] = PLAN_VERSION
    kind: Literal["train"] = "train"
    run: RunIdentity
    model: ModelPlan
    dataset: DatasetPlan
    prompt: PromptPlan | None = None
    training: TrainingPlan
    tracking: TrackingPlan
    lineage_digest: str
    workers: int = 1
    """Pods, or engines, that train together."""
    processes: int = 1
    """Processes in each worker."""
    strategy: Strategy | None = None
    """How several processes share the training."""
    batch: BatchPlan | None = None
    """This attempt's own, which the run takes from its environment: the plan is of all attempts."""
    merge: bool = False
    """Merge the adapter into its base and upload that, too."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Further tags of the MLflow run."""

    @property
    def world_size(self) -> int:
        """All processes that train together."""
        return self.workers * self.processes

    @property
    def in_force(self) -> RunPlan:
        """The plan with the batch of this attempt among its hyperparameters."""
        if self.batch is None:
            return self
        numbers = self.training.hyperparameters.model_copy(update=dict(self.batch))
        training = self.training.model_copy(update={"hyperparameters": numbers})
        return self.model_copy(update={"training": training})


class InspectionPlan(PlanValue):
    """A short run that reads a source and reports what it is."""

    version: Literal[1] = PLAN_VERSION
    kind: Literal["inspectDataset", "inspectModel", "renderPrompt"]
    run: RunIdentity
    model: ModelPlan | None = None
    """inspectModel: the model. inspectDataset: optional, its tokenizer counts tokens.
    renderPrompt: optional, its chat template renders messages."""
    dataset: DatasetPlan | None = None
    prompt: PromptPlan | None = None
    tracking: TrackingPlan | None = None
    """Where the full report goes as an artifact; best effort."""

"""Status of every kind: what the operator proves. Bounded, and free of row text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from kubetune.api.conditions import Phase
from kubetune.api.kinds.compute_target.recorded import RecordedTarget
from kubetune.api.kinds.inspection import (
    Column,
    LengthHistogram,
    ModelShape,
    Problem,
    PromptSample,
    RowChecks,
    SplitRows,
)
from kubetune.api.run.outcome import MAX_LOG_BYTES
from kubetune.api.schema.base import Value, keyed_by
from kubetune.api.training.families import PadTokenFrom
from kubetune.api.training.trained_rows import MAX_TRAINED_ROWS, TrainedRows

Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339, UTC, whole seconds."""

MAX_ATTEMPTS = 10


class Condition(Value):
    """One condition, as in Kubernetes' own kinds."""

    type: str = Field(max_length=316, description="Type of the condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="CamelCase reason.")
    message: str = Field(max_length=32768, description="A sentence for the user.")
    last_transition_time: Timestamp = Field(description="When status last changed.")
    observed_generation: int | None = Field(
        default=None, description="metadata.generation that the condition was made for."
    )


class ObjectStatus(Value):
    """Common to all kinds."""

    observed_generation: int | None = Field(
        default=None, description="metadata.generation that this status was made for."
    )
    conditions: Annotated[list[Condition], *keyed_by("type")] | None = Field(
        default=None,
        max_length=16,
        description="Conditions; Ready tells whether the object can be used.",
    )


class InspectionState(Value):
    """Which inspection the status is from."""

    key: str | None = Field(default=None, description="Digest of what was inspected and how.")
    attempts: int | None = Field(default=None, description="Failed tries since the spec changed.")
    external: RecordedTarget | None = Field(
        default=None, description="Where it reads, while it goes on."
    )
    time: Timestamp | None = Field(default=None, description="When the last try ended.")
    result: Literal["found", "refused"] | None = Field(
        default=None, description="found or refused once it ended; absent while it goes on."
    )
    reason: str | None = Field(default=None, description="Why the source was refused.")
    message: str | None = Field(
        default=None, max_length=1024, description="Why the last try failed."
    )
    log: str | None = Field(
        default=None,
        max_length=MAX_LOG_BYTES,
        description="Last lines that a failed try has printed.",
    )


class DatasetStatus(ObjectStatus):
    """Status of a Dataset."""

    inspection: InspectionState | None = None
    source: str | None = Field(default=None, description="The source in one line.")
    revision: str | None = Field(default=None, description="Resolved commit of a hub source.")
    digest: str | None = Field(default=None, description="sha256 of the content.")
    split_digest: str | None = Field(default=None, description="sha256 over the split rows.")
    rows: SplitRows | None = Field(default=None, description="Rows per split.")
    columns: list[Column] | None = Field(default=None, max_length=200, description="Columns.")
    columns_truncated: bool | None = Field(default=None, description="There are more columns.")
    lengths: LengthHistogram | None = Field(
        default=None, description="Lengths of rows, in tokens when a tokenizer is known."
    )
    checks: RowChecks | None = Field(
        default=None, description="Duplicate, leaked, empty and very long rows."
    )
    problems: list[Problem] | None = Field(
        default=None, max_length=20, description="The first problems by row."
    )
    problem_count: int | None = Field(default=None, description="All problems.")
    report_uri: str | None = Field(default=None, description="Artifact with all problems.")


class JobOutput(Value):
    """What a FineTuneJob has left, so that the Model needs it no longer."""

    name: str = Field(max_length=253, description="The FineTuneJob.")
    uri: str = Field(max_length=2048, description="Its result as MLflow names it.")
    trained_on: list[TrainedRows] | None = Field(
        default=None, max_length=MAX_TRAINED_ROWS, description="Rows behind that result."
    )


class ModelStatus(ModelShape, ObjectStatus):
    """Status of a Model."""

    inspection: InspectionState | None = None
    made_by: str | None = Field(
        default=None, max_length=253, description="FineTuneJob whose output it is."
    )
    job_output: JobOutput | None = Field(
        default=None,
        description="What spec.source.fineTuneJob has left; from then on the job may be deleted.",
    )
    source: str | None = Field(default=None, description="The source in one line.")
    type: Literal["base", "adapter"] | None = Field(default=None, description="base or adapter.")
    revision: str | None = Field(default=None, description="Commit, version or content digest.")
    trained_on: list[TrainedRows] | None = Field(
        default=None,
        max_length=MAX_TRAINED_ROWS,
        description="Rows that the version was trained on, by its tags in the registry.",
    )
    architecture: str | None = Field(default=None, description="Architecture class.")
    model_type: str | None = Field(default=None, description="transformers model type.")
    parameters: int | None = Field(default=None, description="Number of parameters.")
    dtype: str | None = Field(default=None, description="Number format of the weights.")
    context_length: int | None = Field(default=None, description="Longest sequence, in tokens.")
    size_bytes: int | None = Field(default=None, description="Bytes of the weight files.")
    license: str | None = Field(default=None, description="License as the repository names it.")
    chat_template: bool | None = Field(default=None, description="Has a chat template.")
    pad_token: str | None = Field(
        default=None, description="Token that pads, as far as the files tell."
    )
    pad_token_from: PadTokenFrom | None = Field(
        default=None,
        description="What it is: tokenizer (its own), reserved, unknown or end. Padding is masked,"
        " so an end token is learned all the same.",
    )
    base_model: str | None = Field(default=None, description="Adapters: base model as recorded.")
    adapter_rank: int | None = Field(default=None, description="Adapters: rank.")


class PromptSuggestion(Value):
    """What to write, guessed from column names: templates, or what to set in the Dataset."""

    prompt: str | None = Field(default=None, description="For spec.prompt.")
    completion: str | None = Field(default=None, description="For spec.completion.")
    format: str | None = Field(
        default=None, description="For spec.format of the Dataset, which needs no PromptTemplate."
    )
    columns: dict[str, str] | None = Field(
        default=None, max_length=8, description="For spec.columns of the Dataset."
    )
    left_out: list[str] | None = Field(
        default=None, max_length=16, description="Columns that the guess has no use for."
    )


class PromptTemplateStatus(ObjectStatus):
    """Status of a PromptTemplate."""

    inspection: InspectionState | None = None
    slots: list[str] | None = Field(default=None, max_length=200, description="Slots in order.")
    suggestion: PromptSuggestion | None = Field(
        default=None, description="A guess from the Dataset's columns; only without templates."
    )
    sample: PromptSample | None = Field(
        default=None, description="One rendered row; only with spec.sample."
    )


class CmlAccelerator(Value):
    """An accelerator label of a CML workspace."""

    key: str = Field(description="Key, for resources.gpuLabel.")
    value: str = Field(description="Value, for resources.gpuLabel.")
    max_per_workload: int | None = Field(default=None, description="Most GPUs that a run gets.")
    free: int | None = Field(default=None, description="GPUs that nobody uses now.")


class CmlQuota(Value):
    """Quota of the key's user; CPUs, gigabytes and GPUs."""

    cpu: str | None = Field(default=None, description="CPUs, used/allowed.")
    memory: str | None = Field(default=None, description="Gigabytes, used/allowed.")
    gpu: str | None = Field(default=None, description="GPUs, used/allowed.")


class CmlWorkspaceStatus(Value):
    """What a CML workspace offers to the target."""

    project_id: str | None = Field(default=None, description="Id of the project.")
    runtime: str | None = Field(default=None, description="Identifier of the runtime in use.")
    accelerators: list[CmlAccelerator] | None = Field(
        default=None, max_length=32, description="Accelerator labels, at most 32."
    )
    quota: CmlQuota | None = Field(default=None, description="Quota of the key's user.")
    variables: list[str] | None = Field(
        default=None,
        max_length=100,
        description="Names of the project's variables, at most 100; never their values.",
    )


class ComputeTargetStatus(ObjectStatus):
    """Status of a ComputeTarget or ClusterComputeTarget."""

    tracking_version: str | None = Field(default=None, description="Version of the MLflow server.")
    workspace: CmlWorkspaceStatus | None = Field(
        default=None, description="What the CML workspace offers."
    )


class PeakMemory(Value):
    """Estimated peak memory of the device by part."""

    total: str = Field(
        description="The most at one time. Less than the sum of the parts, since gradients are"
        " whole only when the activations are gone."
    )
    weights: str = Field(description="Weights, frozen ones too.")
    gradients: str = Field(description="Gradients of the weights that train.")
    optimizer: str = Field(description="State of the optimizer.")
    activations: str = Field(description="What forward keeps for backward.")
    logits: str = Field(description="Temporaries of the output layer and the loss.")
    runtime: str = Field(description="Interpreter and libraries; on a GPU its context.")
    host: str | None = Field(
        default=None, description="On a GPU: main memory, to load the model with."
    )


class Estimate(Value):
    """What the job will take, as far as Model and Dataset tell."""

    sequence_length: int | None = Field(
        default=None, description="Tokens of the longest row that a batch is expected to have."
    )
    rows_per_step: int | None = Field(
        default=None,
        description="Rows, or packed sequences, that an optimizer step learns from, all workers"
        " together.",
    )
    steps: int | None = Field(default=None, description="Optimizer steps in all.")
    tokens_per_epoch: int | None = Field(
        default=None,
        description="Tokens of the rows that train, where the Dataset's tokenizerRef let count.",
    )
    trainable_parameters: int | None = Field(default=None, description="Weights that train.")
    peak_memory: PeakMemory | None = Field(
        default=None, description="Peak memory of the device, as quantities."
    )
    gpu_hours: float | None = Field(
        default=None, description="GPU hours at estimate.tokensPerSecond, evaluation aside."
    )


class Attempt(Value):
    """One try."""

    number: int = Field(description="1 for the first.")
    job: str = Field(description="Name of the Job; on CML the id of the run.")
    start_time: Timestamp | None = Field(
        default=None, description="When it began to run; absent while it waits."
    )
    end_time: Timestamp | None = Field(default=None, description="When it ended.")
    result: Literal["Running", "Succeeded", "Failed", "Preempted", "Stopped"] = Field(
        description="Running, Succeeded, Failed, Preempted or Stopped."
    )
    exit_code: int | None = Field(default=None, description="Exit code of the runner.")
    reason: str | None = Field(default=None, description="CamelCase reason of its end.")
    message: str | None = Field(default=None, max_length=1024, description="Why, in a sentence.")
    log: str | None = Field(
        default=None,
        max_length=MAX_LOG_BYTES,
        description="Last lines that it has printed, of the newest attempt that failed.",
    )


class AttemptCounts(Value):
    """All attempts, also those no longer listed."""

    total: int = Field(default=0, description="Attempts made.")
    failed: int = Field(default=0, description="Attempts that count against backoffLimit.")
    preempted: int = Field(default=0, description="Attempts that were evicted; they don't count.")


class RunTime(Value):
    """How long runs were under way, as far as they are over."""

    seconds: int = Field(description="Seconds that count against activeDeadlineSeconds.")
    counted_until: Timestamp = Field(description="End of the last run that is counted.")


class External(RecordedTarget):
    """The run outside, and where it was started: there it is followed, stopped and deleted."""

    workspace: str | None = Field(default=None, description="Address of the CML workspace.")
    job_id: str | None = Field(
        default=None, description="Namespace/name of the newest Job; on CML project/id of the job."
    )
    run_id: str | None = Field(default=None, description="On CML the id of the newest run.")
    project_id: str | None = Field(default=None, description="On CML the id of the project.")
    url: str | None = Field(default=None, description="On CML the page of the job.")


class MlflowRun(Value):
    """The run in MLflow."""

    experiment_id: str | None = Field(default=None, description="Experiment id.")
    run_id: str | None = Field(default=None, description="Run id.")
    url: str | None = Field(default=None, description="Page of the run.")


class Progress(Value):
    """How far the training is."""

    stage: str | None = Field(
        default=None, description="preparing, training, evaluating or uploading."
    )
    step: int | None = Field(default=None, description="Optimizer steps done.")
    total_steps: int | None = Field(default=None, description="Optimizer steps in all.")
    percent: int | None = Field(default=None, description="Steps done, 0 to 100.")
    epoch: float | None = Field(default=None, description="Passes over the training rows.")
    loss: str | None = Field(default=None, description="Newest training loss.")
    eval_loss: str | None = Field(default=None, description="Newest held-out loss.")
    learning_rate: str | None = Field(default=None, description="Newest learning rate.")
    tokens_per_second: float | None = Field(default=None, description="Training tokens a second.")
    eta_seconds: int | None = Field(default=None, description="Seconds until training ends.")
    eta: str | None = Field(default=None, description="The same for people, such as 3m20s.")
    updated_at: Timestamp | None = Field(default=None, description="When this was read.")


class Lineage(Value):
    """What the result was made from."""

    dataset_digest: str | None = Field(default=None, description="Content digest of the rows.")
    split_digest: str | None = Field(default=None, description="Digest over the split rows.")
    model_revision: str | None = Field(default=None, description="Revision of the base model.")
    config_digest: str | None = Field(default=None, description="Digest of effective settings.")
    code_version: str | None = Field(default=None, description="kubetune version.")
    world_size: int | None = Field(default=None, description="Processes that train.")
    trained_on: list[TrainedRows] | None = Field(
        default=None,
        max_length=MAX_TRAINED_ROWS,
        description="Rows that the model to start from was trained on, as far as it is known.",
    )
    digest: str | None = Field(default=None, description="Digest over all of these.")


class RegisteredResult(Value):
    """The registered version."""

    name: str = Field(description="Registered model.")
    version: int = Field(description="Version number.")
    alias: str | None = Field(default=None, description="Alias that points to it.")


class RowCounts(Value):
    """What became of the rows of a split."""

    used: int = Field(description="Rows that train or are measured.")
    empty: int = Field(default=0, description="Rows without an answer or text, left out.")
    unusable: int = Field(default=0, description="Rows that don't fit the format, left out.")
    cut: int = Field(default=0, description="Rows longer than maxLength, cut at the end.")
    cut_away: int = Field(
        default=0, description="Rows left out since nothing to learn was within maxLength."
    )
    dropped: int = Field(
        default=0, description="Rows longer than maxLength, left out by data.longRows."
    )
    hidden: int = Field(
        default=0, description="Rows with parts that the chat template doesn't show."
    )
    answered: int | None = Field(
        default=None,
        description="Rows that exact_match and token_f1 are of: at most evaluation.maxRows of those"
        " that leave room for an answer.",
    )
    no_room: int | None = Field(
        default=None,
        description="Rows whose prompts leave no room for evaluation.maxNewTokens tokens within the"
        " model's context, so that no answer was graded.",
    )


class ResultRows(Value):
    """What became of the rows."""

    train: RowCounts | None = Field(default=None, description="Rows that train.")
    evaluation: RowCounts | None = Field(default=None, description="Rows that are held out.")


class MergedResult(Value):
    """The adapter merged into its base model."""

    registered: RegisteredResult | None = Field(default=None, description="Registered version.")
    model_uri: str | None = Field(default=None, description="The merged model as MLflow names it.")


class Result(Value):
    """What came out."""

    metrics: dict[str, str] | None = Field(
        default=None, max_length=64, description="Final metrics."
    )
    rows: ResultRows | None = Field(default=None, description="What became of the rows.")
    model_ref: dict[str, str] | None = Field(default=None, description="The Model made for it.")
    registered: RegisteredResult | None = Field(default=None, description="Registered version.")
    model_uri: str | None = Field(
        default=None, description="The result as MLflow names it, such as models:/m-1a2b."
    )
    merged: MergedResult | None = Field(
        default=None, description="The merged model, with output.merge."
    )
    reused: bool | None = Field(default=None, description="Adopted instead of trained.")


class Failure(Value):
    """Why the job failed."""

    reason: str = Field(description="CamelCase reason.")
    message: str = Field(max_length=1024, description="Why, and what to do.")
    retryable: bool = Field(default=False, description="Whether another try may succeed.")


class FineTuneJobStatus(ObjectStatus):
    """Status of a FineTuneJob."""

    run_key: str | None = Field(
        default=None,
        max_length=63,
        description="Identity of the job's runs, made before the first one. Only the operator's own"
        " keys are honoured.",
    )
    phase: Phase | None = Field(default=None, description="Where the job stands.")
    effective: dict[str, JsonValue] | None = Field(
        default=None, description="All settings after profile and defaults, frozen."
    )
    estimate: Estimate | None = Field(
        default=None, description="What it will take, told before it is submitted."
    )
    start_time: Timestamp | None = Field(default=None, description="First submission.")
    completion_time: Timestamp | None = Field(default=None, description="The end, either way.")
    attempts: list[Attempt] | None = Field(
        default=None, max_length=MAX_ATTEMPTS, description="Newest attempts."
    )
    counts: AttemptCounts | None = Field(default=None, description="All attempts.")
    run_time: RunTime | None = Field(
        default=None, description="How long ended attempts were under way."
    )
    external: External | None = Field(default=None, description="The run outside.")
    mlflow: MlflowRun | None = Field(default=None, description="The run in MLflow.")
    progress: Progress | None = Field(default=None, description="How far training is.")
    lineage: Lineage | None = Field(default=None, description="What it is made from.")
    result: Result | None = Field(default=None, description="What came out.")
    failure: Failure | None = Field(default=None, description="Why it failed.")

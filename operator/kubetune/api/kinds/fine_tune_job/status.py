"""Status of a FineTuneJob: estimate, progress, lineage, result. Bounded."""

from __future__ import annotations

from pydantic import Field, JsonValue

from kubetune.api.conditions import Phase
from kubetune.api.kinds.running import (
    MAX_ATTEMPTS,
    QUEUE_TIME,
    WAIT_TIME,
    Attempt,
    AttemptCounts,
    External,
    MlflowRun,
    RegisteredResult,
    RunTime,
    WaitTime,
)
from kubetune.api.kinds.status import ObjectStatus, Timestamp
from kubetune.api.schema.base import Value
from kubetune.api.training.trained_rows import MAX_TRAINED_ROWS, TrainedRows


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
        " and their processes together.",
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


class Progress(Value):
    """How far the newest attempt is."""

    attempt: int | None = Field(default=None, description="The attempt that this is of.")
    stage: str | None = Field(
        default=None,
        description="What it does now: preparing, then downloading, reading, tokenizing, loading,"
        " baseline, training, evaluating, merging or uploading.",
    )
    done: int | None = Field(default=None, description="How much of the stage is done.")
    total: int | None = Field(default=None, description="How much the stage is in all.")
    unit: str | None = Field(
        default=None, description="What both count: bytes, rows, steps or requests."
    )
    step: int | None = Field(default=None, description="Optimizer steps done.")
    total_steps: int | None = Field(default=None, description="Optimizer steps in all.")
    percent: int | None = Field(
        default=None,
        description="Of the whole job, evaluation and upload included: 100 when it has ended well.",
    )
    epoch: float | None = Field(default=None, description="Passes over the training rows.")
    loss: str | None = Field(default=None, description="Newest training loss.")
    eval_loss: str | None = Field(default=None, description="Newest held-out loss.")
    learning_rate: str | None = Field(default=None, description="Newest learning rate.")
    tokens_per_second: float | None = Field(default=None, description="Training tokens a second.")
    eta_seconds: int | None = Field(default=None, description="Seconds until the stage ends.")
    eta: str | None = Field(default=None, description="The same for people, such as 3m20s.")
    updated_at: Timestamp | None = Field(default=None, description="When this was read.")


class LastCheckpoint(Value):
    """The newest whole checkpoint."""

    step: int = Field(description="Optimizer steps that it keeps.")
    time: Timestamp = Field(description="When it was written.")
    attempt: int = Field(description="The attempt that reported it first.")


class Lineage(Value):
    """What the result was made from."""

    dataset_digest: str | None = Field(default=None, description="Content digest of the rows.")
    split_digest: str | None = Field(default=None, description="Digest over the split rows.")
    model_revision: str | None = Field(default=None, description="Revision of the base model.")
    config_digest: str | None = Field(default=None, description="Digest of effective settings.")
    code_version: str | None = Field(default=None, description="kubetune version.")
    world_size: int | None = Field(default=None, description="Processes that train.")
    per_device_batch_size: int | None = Field(
        default=None,
        description="What the attempt that ended well trained with, where onOutOfMemory HalveBatch"
        " has changed it. Not part of the digest.",
    )
    gradient_accumulation_steps: int | None = Field(default=None, description="The same.")
    trained_on: list[TrainedRows] | None = Field(
        default=None,
        max_length=MAX_TRAINED_ROWS,
        description="Rows that the model to start from was trained on, as far as it is known.",
    )
    digest: str | None = Field(default=None, description="Digest over all of these.")


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
        default=0, description="Rows with parts that their training text doesn't show."
    )
    loss_rows: int | None = Field(
        default=None,
        description="Rows that the held-out loss is a mean over: those that can be used of at most"
        " evaluation.maxLossRows.",
    )
    answered: int | None = Field(
        default=None,
        description="Rows that exactMatch and tokenF1 are of: at most evaluation.maxRows of those"
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
    files_digest: str | None = Field(
        default=None, description="Digest of the list of its files, which names the digest of each."
    )


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
    files_digest: str | None = Field(
        default=None,
        description="Digest of the list of the result's files, which names the digest of each.",
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
        default=None, description="What it will take, reported before it is submitted."
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
    wait_time: WaitTime | None = Field(default=None, description=WAIT_TIME)
    queue_time: WaitTime | None = Field(default=None, description=QUEUE_TIME)
    external: External | None = Field(default=None, description="The run outside.")
    mlflow: MlflowRun | None = Field(default=None, description="The run in MLflow.")
    progress: Progress | None = Field(default=None, description="How far training is.")
    last_checkpoint: LastCheckpoint | None = Field(
        default=None,
        description="Where another attempt would continue. Missing where nothing keeps checkpoints"
        " when a run ends: see spec.checkpoint.claimName.",
    )
    lineage: Lineage | None = Field(default=None, description="What it is made from.")
    result: Result | None = Field(default=None, description="What came out.")
    failure: Failure | None = Field(default=None, description="Why it failed.")

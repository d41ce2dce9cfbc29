"""Status of an Evaluation: one row for each candidate, and the verdict. Bounded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kubetune.api.conditions import CandidatePhase, Phase
from kubetune.api.kinds.compute_target.recorded import RecordedTarget
from kubetune.api.kinds.evaluation.spec import MAX_CANDIDATES
from kubetune.api.kinds.running import (
    QUEUE_TIME,
    WAIT_TIME,
    Attempt,
    AttemptCounts,
    MlflowRun,
    RegisteredResult,
    RunTime,
    WaitTime,
)
from kubetune.api.kinds.status import ObjectStatus, Timestamp
from kubetune.api.metrics.metric import MAX_METRICS
from kubetune.api.schema.base import Value, keyed_by


class MetricResult(Value):
    """What was measured, or why it wasn't."""

    name: str = Field(description="Name of the metric.")
    value: str | None = Field(default=None, description="The metric over all rows.")
    low: str | None = Field(default=None, description="Lower end of its 95% interval.")
    high: str | None = Field(default=None, description="Upper end of its 95% interval.")
    delta: str | None = Field(
        default=None, description="Difference to the first candidate, with its sign."
    )
    error: str | None = Field(default=None, max_length=200, description="Why there is no value.")


class CandidateProgress(Value):
    """How far the measurement is."""

    attempt: int | None = Field(default=None, description="The attempt that this is of.")
    stage: str | None = Field(
        default=None,
        description="What its run does now: preparing, then downloading, reading, tokenizing,"
        " loading, evaluating, tasks, judging or uploading.",
    )
    done: int | None = Field(default=None, description="How much of the stage is done.")
    total: int | None = Field(default=None, description="How much the stage is in all.")
    unit: str | None = Field(default=None, description="What both count: bytes, rows or requests.")
    rows: int | None = Field(default=None, description="Rows and requests of tasks done.")
    total_rows: int | None = Field(default=None, description="Rows and requests in all.")
    percent: int | None = Field(default=None, description="Of the whole run, 0 to 100.")
    eta_seconds: int | None = Field(default=None, description="Seconds until the stage ends.")
    eta: str | None = Field(default=None, description="The same for people, such as 3m20s.")
    updated_at: Timestamp | None = Field(default=None, description="When this was read.")


class EvaluationProgress(Value):
    """How far all candidates are, together."""

    percent: int = Field(description="Of all candidates, 0 to 100: each has an equal share.")
    candidate: str | None = Field(default=None, description="The first one that is measured now.")
    stage: str | None = Field(default=None, description="What its run does now.")
    eta: str | None = Field(default=None, description="Until its stage ends, such as 3m20s.")


class CandidateStatus(Value):
    """Where a candidate stands, and its results."""

    name: str = Field(description="Name of the candidate.")
    phase: CandidatePhase = Field(
        description="Pending, Queued, Running, Retrying, Succeeded or Failed."
    )
    reason: str | None = Field(default=None, description="CamelCase reason of the phase.")
    message: str | None = Field(default=None, max_length=512, description="Why, in a sentence.")
    digest: str | None = Field(
        default=None, description="Digest over model, rows, prompt and settings."
    )
    reused: bool | None = Field(
        default=None, description="Measured before, with the same digest, by another run."
    )
    attempt: Attempt | None = Field(default=None, description="The newest attempt.")
    counts: AttemptCounts | None = Field(default=None, description="All attempts.")
    progress: CandidateProgress | None = Field(
        default=None, description="How far it is, while it is measured."
    )
    mlflow: MlflowRun | None = Field(default=None, description="The run in MLflow.")
    chat_template: str | None = Field(
        default=None,
        description="Chat template by the model's family, where it has none of its own.",
    )
    rows: int | None = Field(default=None, description="Rows that were measured.")
    rows_digest: str | None = Field(default=None, description="Digest over these rows.")
    skipped: int | None = Field(
        default=None, description="Rows whose prompt left no room for an answer."
    )
    tokens: int | None = Field(default=None, description="Tokens that the loss is a mean over.")
    loss_rows: int | None = Field(
        default=None, description="Rows that the loss is a mean over: at most maxLossRows."
    )
    samples: bool | None = Field(default=None, description="Answers are stored for comparison.")
    metrics: Annotated[list[MetricResult], *keyed_by("name")] | None = Field(
        default=None, max_length=MAX_METRICS + 1, description="Results by metric."
    )
    registered: RegisteredResult | None = Field(
        default=None, description="The registered version that the candidate is."
    )
    passed: bool | None = Field(default=None, description="Whether it meets its thresholds.")
    misses: list[Annotated[str, Field(max_length=300)]] | None = Field(
        default=None, max_length=32, description="Thresholds that it does not meet."
    )


class Promoted(Value):
    """The alias that was moved."""

    name: str = Field(description="Registered model.")
    alias: str = Field(description="Alias.")
    version: int = Field(description="Version that has it now.")
    previous: int | None = Field(default=None, description="Version that had it before.")


class EvaluatedRows(Value):
    """The rows, functions and tasks, frozen when the first candidate started."""

    dataset_digest: str | None = Field(default=None, description="Content digest of the Dataset.")
    split_digest: str | None = Field(default=None, description="Digest over the split rows.")
    functions_digest: str | None = Field(
        default=None, description="Digest over the metric functions."
    )
    tasks_digest: str | None = Field(
        default=None, description="Digest over the files of the tasks."
    )


class EvaluationStatus(ObjectStatus):
    """Status of an Evaluation."""

    phase: Phase | None = Field(default=None, description="Where the evaluation stands.")
    start_time: Timestamp | None = Field(
        default=None, description="First submission, or first results taken over."
    )
    completion_time: Timestamp | None = Field(default=None, description="The end, either way.")
    run_time: RunTime | None = Field(
        default=None, description="How long ended attempts were under way."
    )
    wait_time: WaitTime | None = Field(default=None, description=WAIT_TIME)
    queue_time: WaitTime | None = Field(default=None, description=QUEUE_TIME)
    target: str | None = Field(default=None, description="Kind/name of the compute target.")
    external: RecordedTarget | None = Field(
        default=None, description="Where the candidates' runs were started."
    )
    data: EvaluatedRows | None = Field(default=None, description="What is measured on.")
    progress: EvaluationProgress | None = Field(
        default=None, description="How far all candidates are, together."
    )
    candidates: Annotated[list[CandidateStatus], *keyed_by("name")] | None = Field(
        default=None, max_length=MAX_CANDIDATES, description="All candidates with their results."
    )
    winner: str | None = Field(
        default=None,
        description="Best candidate by the first metric, of those that meet their thresholds.",
    )
    promoted: Promoted | None = Field(default=None, description="The alias that was moved.")

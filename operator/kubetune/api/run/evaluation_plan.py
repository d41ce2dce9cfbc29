"""What the operator hands to the run of one candidate of an Evaluation, and what comes back.

The run gets an ``EvaluationRunPlan`` and leaves an ``EvaluationSummary`` as the summary of its
outcome and, so that it is found again, in a tag of its tracked run.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.bounded import NOTE, model_value
from kubetune.api.metrics.metric import MAX_METRICS, MetricName
from kubetune.api.run.plan import (
    PLAN_VERSION,
    DatasetPlan,
    ModelPlan,
    PromptPlan,
    RunIdentity,
    TrackingPlan,
)
from kubetune.api.schema.base import PlanValue, Value
from kubetune.api.schema.rules import Rule, exactly_one

# Tags of the MLflow run of a candidate, besides those that every run has.
TAG_EVALUATION = "kubetune.evaluation"
"""Name of the Evaluation that the run was made for."""
TAG_CANDIDATE = "kubetune.candidate"
TAG_EVALUATION_DIGEST = "kubetune.evaluation_digest"
"""The plan's digest: runs with equal digests measure the same."""
TAG_EVALUATION_SUMMARY = "kubetune.evaluation_summary"
"""The EvaluationSummary as JSON; set last, so that a run which has it is complete."""
MAX_SUMMARY_TAG = 5000
"""The longest tag that every MLflow server takes, in characters."""

ROWS_ARTIFACT = "evaluation/rows.jsonl"
"""Every evaluated row: number, prompt, reference, answer and the metrics of the row."""
TASKS_ARTIFACT = "evaluation/tasks.jsonl"
"""Every row of the harness' tasks, as the harness has it."""
SAMPLES_ARTIFACT = "evaluation/samples.jsonl"
"""The first rows of the same form, for a look at several candidates side by side."""


class GenerationPlan(PlanValue):
    """How answers are generated."""

    max_new_tokens: int
    temperature: float
    """0: greedy."""
    top_p: float
    """1 when temperature is 0."""
    batch_size: int


class CustomMetricPlan(PlanValue):
    """A metric of the user's own."""

    name: str
    source: str
    """Python code."""
    timeout_seconds: int


class JudgePlan(PlanValue):
    """A metric that a language model decides; its API key is in the environment alone."""

    name: str
    base_url: str
    model: str
    rubric: str
    minimum: int
    maximum: int
    concurrency: int
    timeout_seconds: int
    max_retries: int
    key_variable: str | None = None
    """Variable with the API key; None: none is sent."""


class TaskPlan(PlanValue):
    """A task of lm-evaluation-harness."""

    name: str
    task: str
    metric: str | None = None
    few_shot: int | None = None
    limit: int | None = None
    chat_template: bool = False
    lower_is_better: bool = False
    files: dict[str, str] | None = None
    """Texts of an own task's files by name; None: the harness brings the task."""


class EvaluationRunPlan(PlanValue):
    """The measurement of one candidate."""

    version: Literal[1] = PLAN_VERSION
    kind: Literal["evaluate"] = "evaluate"
    run: RunIdentity
    """Name and uid are the Evaluation's."""
    candidate: str
    model: ModelPlan
    dataset: DatasetPlan
    split: Literal["train", "evaluation"]
    prompt: PromptPlan | None = None
    chat_template: str | None = None
    """For chats with a model that has no template of its own."""
    generation: GenerationPlan
    metrics: list[MetricName]
    """May be empty when there are metrics of the user's own."""
    custom_metrics: list[CustomMetricPlan] = Field(default_factory=list[CustomMetricPlan])
    judges: list[JudgePlan] | None = None
    tasks: list[TaskPlan] | None = None
    max_rows: int
    """Rows to answer are chosen by seed from the split, the same for equal data; their order is
    kept."""
    max_loss_rows: int | None = None
    """Rows to measure a loss on are chosen by the seed of the splits, as a training does. None: no
    loss is measured; in plans of earlier versions, it is of the rows to answer."""
    seed: int
    """Of the choice of rows to answer, of sampling and of the bootstrap."""
    samples: int
    """Rows of SAMPLES_ARTIFACT; 0 leaves it out."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    digest: str
    """``sha256:...`` over all that changes the result."""
    tracking: TrackingPlan


class MeasuredValue(PlanValue):
    """A metric over all rows with its 95% interval by bootstrap, or why there is none."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("value", "error"),)

    value: float | None = None
    low: float | None = None
    high: float | None = None
    error: str | None = Field(default=None, max_length=200)


class EvaluationSummary(PlanValue):
    """Summary of the outcome of a run that succeeded."""

    metrics: Annotated[dict[str, MeasuredValue], Field(min_length=1, max_length=MAX_METRICS + 1)]
    """Every metric of the plan, by its name."""
    rows: int
    """Rows that were evaluated."""
    rows_digest: str
    """``sha256:...`` over the rows that were evaluated, before any prompt, and how much of each:
    equal for all candidates of an Evaluation, unless some had no room for a row."""
    tokens: int | None = None
    """Tokens that the loss is a mean over; None without a loss."""
    loss_rows: int | None = None
    """Rows that the loss is a mean over; None without a loss."""
    split_rows: int | None = None
    """Rows of the split, of which these were chosen."""
    skipped: int = 0
    """Rows that were chosen but left out, since their prompt leaves no room for an answer."""
    run_id: str
    experiment_id: str
    rows_artifact: str = ROWS_ARTIFACT
    samples_artifact: str | None = None
    """SAMPLES_ARTIFACT, when samples were asked for."""

    @property
    def complete(self) -> bool:
        """Whether every metric has a value: what is missing may have been missing by chance."""
        return all(measured.error is None for measured in self.metrics.values())

    @staticmethod
    def of_tag(text: str | None) -> EvaluationSummary | None:
        """The summary in TAG_EVALUATION_SUMMARY; None where there is none that can be read."""
        if not text:
            return None
        try:
            return model_value(EvaluationSummary, text, NOTE)
        except ValueError:
            return None


class EvaluatedRow(Value):
    """A line of ROWS_ARTIFACT and SAMPLES_ARTIFACT."""

    row: int
    """Number of the row in its split, from 0."""
    prompt: str | None = None
    """None where rows are text without a prompt."""
    reference: str | None = None
    answer: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict[str, float])

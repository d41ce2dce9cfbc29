"""Tasks of EleutherAI's evaluation harness as metrics of an Evaluation."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubetune.api.metrics.metric import AnyMetric, new_name
from kubetune.api.schema.base import LocalRef, Value
from kubetune.api.schema.rules import Rule

MAX_TASK_CHARACTERS = 131_072
"""Files of all own tasks of an Evaluation together: they travel in its plans."""

TaskName = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
]
TaskMetric = Annotated[
    str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@,+-]*$")
]


class HarnessTask(Value):
    """A task of lm-evaluation-harness, or one of your own in its form."""

    rules: ClassVar[tuple[Rule, ...]] = (new_name("task"),)

    name: AnyMetric = Field(description="Name of the metric, to be listed in spec.metrics.")
    task: TaskName = Field(
        description="Task or group as lm-evaluation-harness calls it, such as arc_easy. Its rows"
        " are its own, not the Dataset's: the run downloads them from the Hugging Face hub unless"
        " the task reads files."
    )
    metric: TaskMetric | None = Field(
        default=None,
        description="Which of the task's metrics, such as acc_norm, or with the filter behind a"
        " comma exact_match,strict-match. Default: the first that the task computes.",
    )
    few_shot: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Solved examples before each question. Default: as the task says, else 0.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Rows of each task at most, its first ones. Default: all.",
    )
    chat_template: bool = Field(
        default=False,
        description="Put questions into the model's chat template. Default false.",
    )
    config_map_ref: LocalRef | None = Field(
        default=None,
        description="ConfigMap whose keys are the files of a task of your own: its YAML, and what"
        f" that reads, at most {MAX_TASK_CHARACTERS:,} characters in all. The run's folder is"
        " theirs, so data_files may name them. Default: a task that the harness brings.",
    )
    lower_is_better: bool = Field(
        default=False,
        description="Whether lower values are better, as of word_perplexity. Default false.",
    )

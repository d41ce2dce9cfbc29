"""Kind Evaluation: candidates measured on the same rows, and the alias that the best one gets."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.kinds.dataset.spec import DEFAULT_LOSS_ROWS
from kubetune.api.kinds.evaluation.promotion import CandidateName, Promotion, Threshold
from kubetune.api.metrics.harness import HarnessTask
from kubetune.api.metrics.judge import Judge
from kubetune.api.metrics.metric import (
    BITS_PER_BYTE,
    KNOWN,
    LOWER_IS_BETTER,
    MAX_METRICS,
    METRIC_NAMES,
    NEITHER_IS_BETTER,
    PER_TOKEN,
    AnyMetric,
    MetricFunction,
)
from kubetune.api.schema.base import LimitSeconds, LocalRef, Value, keyed_by
from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.references import ComputeTargetRef
from kubetune.api.schema.rules import Rule, TransitionRule, unchanged
from kubetune.api.training.settings import Resources, Seed

MAX_CANDIDATES = 16


class Candidate(Value):
    """A model that takes part."""

    name: CandidateName = Field(description="Name of the candidate in results and thresholds.")
    model_ref: LocalRef = Field(
        description="Model: a base model, a merged one, or an adapter with its baseModelRef."
    )


class Generation(Value):
    """How answers are generated."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.topP == 1.0 || self.temperature > 0.0",
            message="topP is about sampling, and temperature 0 takes the likeliest token each time:"
            " give a temperature, or remove topP",
            check=lambda generation: generation.top_p == 1 or generation.temperature > 0,
            field="topP",
        ),
    )

    max_new_tokens: int = Field(
        default=64, ge=1, le=16384, description="Most tokens of an answer. Default 64."
    )
    temperature: float = Field(
        default=0,
        ge=0,
        le=2,
        description="Temperature of sampling; 0 takes the likeliest token each time. Default 0.",
    )
    top_p: float = Field(
        default=1,
        gt=0,
        le=1,
        description="Sample from the likeliest tokens that together have this probability; goes"
        " with a temperature. Default 1.",
    )
    batch_size: int = Field(
        default=8, ge=1, le=1024, description="Rows that are computed at once. Default 8."
    )


def _listed(spec: EvaluationSpec) -> bool:
    return all(threshold.metric in spec.metrics for threshold in spec.thresholds or ())


def _thresholds_name_candidates(spec: EvaluationSpec) -> bool:
    names = {None} | {candidate.name for candidate in spec.candidates}
    return all(
        threshold.candidate in names
        and (threshold.better_than is None or threshold.better_than.candidate in names)
        for threshold in spec.thresholds or ()
    )


def _own_names(spec: EvaluationSpec) -> list[str]:
    own = (*(spec.functions or ()), *(spec.judges or ()), *(spec.tasks or ()))
    return [item.name for item in own]


def _asked_for(field: str, what: str) -> Rule:
    return Rule(
        cel=f"!has(self.{field}) || self.{field}.all(i, i.name in self.metrics)",
        message=f"{what} when its name is one of spec.metrics; add it there",
        check=lambda spec: all(item.name in spec.metrics for item in getattr(spec, field) or ()),
        field=field,
    )


_FROZEN = (
    "candidates",
    "datasetRef",
    "split",
    "allowTrainingRows",
    "promptRef",
    "generation",
    "metrics",
    "functions",
    "judges",
    "tasks",
    "maxRows",
    "maxLossRows",
    "seed",
    "samples",
    "precision",
    "thresholds",
    "promote",
    "parallelism",
    "backoffLimit",
    "resources",
    "computeTargetRef",
)


class EvaluationSpec(Value):
    """What the user declares. It can't be changed, but for the fields that say so."""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("computeTargetRef", "ComputeTarget", or_default=True),
        Reference("datasetRef", "Dataset"),
        Reference("promptRef", "PromptTemplate"),
        Reference("candidates[].modelRef", "Model"),
        Reference("functions[].configMapRef", "ConfigMap"),
        Reference("tasks[].configMapRef", "ConfigMap"),
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.thresholds) || self.thresholds.all(t, t.metric in self.metrics)",
            message="a threshold's metric must be one of spec.metrics; add it there",
            check=_listed,
            field="thresholds",
        ),
        Rule(
            cel="!has(self.thresholds) || self.thresholds.all(t,"
            " (!has(t.candidate) || self.candidates.exists(c, c.name == t.candidate)) &&"
            " (!has(t.betterThan) || !has(t.betterThan.candidate) ||"
            " self.candidates.exists(c, c.name == t.betterThan.candidate)))",
            message="thresholds can name only candidates of spec.candidates",
            check=_thresholds_name_candidates,
            field="thresholds",
        ),
        Rule(
            cel="!has(self.promote) || !has(self.promote.candidate) ||"
            " self.candidates.exists(c, c.name == self.promote.candidate)",
            message="promote can name only a candidate of spec.candidates",
            check=lambda spec: (
                spec.promote is None
                or spec.promote.candidate is None
                or any(item.name == spec.promote.candidate for item in spec.candidates)
            ),
            field="promote",
        ),
        Rule(
            cel="!has(self.thresholds) || self.thresholds.all(t, !has(t.betterThan) ||"
            " !has(t.betterThan.alias) ||"
            " (has(self.promote) && self.promote.alias == t.betterThan.alias))",
            message="betterThan.alias must be the alias of spec.promote, which names the registered"
            " model",
            check=lambda spec: all(
                t.better_than is None
                or t.better_than.alias is None
                or (spec.promote is not None and spec.promote.alias == t.better_than.alias)
                for t in spec.thresholds or ()
            ),
            field="thresholds",
        ),
        Rule(
            cel="!has(self.thresholds) || self.thresholds.all(t, !has(t.betterThan) ||"
            " t.metric != 'length')",
            message="no length is better than another: give min or max",
            check=lambda spec: all(
                t.better_than is None or t.metric not in NEITHER_IS_BETTER
                for t in spec.thresholds or ()
            ),
            field="thresholds",
        ),
        Rule(
            cel=f"self.metrics.all(m, m in {KNOWN} ||"
            " (has(self.functions) && self.functions.exists(f, f.name == m)) ||"
            " (has(self.judges) && self.judges.exists(j, j.name == m)) ||"
            " (has(self.tasks) && self.tasks.exists(t, t.name == m)))",
            message=f"a metric is one of {', '.join(METRIC_NAMES)}, or the name of one of"
            " spec.functions, spec.judges or spec.tasks",
            check=lambda spec: set(spec.metrics) <= {*METRIC_NAMES, *_own_names(spec)},
            field="metrics",
        ),
        Rule(
            cel="!has(self.resources) || !has(self.resources.processes) ||"
            " self.resources.processes < 2",
            message="each candidate is measured by one process: remove resources.processes, and see"
            " parallelism",
            check=lambda spec: spec.resources is None or spec.resources.processes in (None, 1),
            field="resources",
        ),
        _asked_for("judges", "a judge is asked"),
        Rule(
            cel=f"!has(self.judges) || self.judges.all(j, !(j.name in {KNOWN}) &&"
            " (!has(self.functions) || !self.functions.exists(f, f.name == j.name)))",
            message="a metric or function of this name exists; give the judge another one",
            check=lambda spec: (
                not (
                    {judge.name for judge in spec.judges or ()}
                    & {*METRIC_NAMES, *(function.name for function in spec.functions or ())}
                )
            ),
            field="judges",
        ),
        Rule(
            cel="!has(self.tasks) || self.tasks.all(t,"
            " (!has(self.functions) || !self.functions.exists(f, f.name == t.name)) &&"
            " (!has(self.judges) || !self.judges.exists(j, j.name == t.name)))",
            message="a function or judge of this name exists; give the task another one",
            check=lambda spec: (
                not (
                    {task.name for task in spec.tasks or ()}
                    & {item.name for item in (*(spec.functions or ()), *(spec.judges or ()))}
                )
            ),
            field="tasks",
        ),
        _asked_for("tasks", "a task is run"),
        _asked_for("functions", "a function is called"),
        Rule(
            cel="self.metrics.all(m, self.metrics.exists_one(n, n == m))",
            message="each metric may stand here once",
            check=lambda spec: len(set(spec.metrics)) == len(spec.metrics),
            field="metrics",
        ),
        Rule(
            cel="self.metrics[0] != 'length'",
            message="the first metric decides who wins, and no length is better than another: put"
            " another metric first",
            check=lambda spec: spec.metrics[0] not in NEITHER_IS_BETTER,
            field="metrics",
        ),
    )
    transitions: ClassVar[tuple[TransitionRule, ...]] = (
        unchanged(
            _FROZEN,
            "make a new Evaluation with another name: what was measured with equal inputs is not"
            " measured again",
        ),
    )

    candidates: Annotated[list[Candidate], *keyed_by("name")] = Field(
        min_length=1,
        max_length=MAX_CANDIDATES,
        description="Models to compare; differences in results are to the first one.",
    )
    dataset_ref: LocalRef = Field(description="Dataset whose rows all candidates are measured on.")
    split: Literal["train", "evaluation"] = Field(
        default="evaluation",
        description="Rows of the Dataset: evaluation (held out) or train. Default evaluation.",
    )
    allow_training_rows: bool = Field(
        default=False,
        description="Measure also candidates that were trained on rows they are measured on, as"
        " far as their FineTuneJob tells. Default false: that is refused.",
    )
    prompt_ref: LocalRef | None = Field(
        default=None,
        description="PromptTemplate that makes text of rows. Default: the Dataset's columns as"
        " they are.",
    )
    generation: Generation | None = Field(default=None, description="How answers are generated.")
    metrics: list[AnyMetric] = Field(
        default=["exactMatch", "tokenF1"],
        min_length=1,
        max_length=MAX_METRICS,
        description="What is measured, also functions, judges and tasks by name; the first one"
        " decides who wins. loss and perplexity are of the answer's tokens, and decide nothing"
        " between models with different tokenizers: bitsPerByte does; exactMatch, tokenF1,"
        " rouge1, rougeL, bleu, chrf and jsonFields (share of the reference's JSON fields that the"
        " answer has right) compare generated answers with the reference, 0 to 1 (bleu and chrf 0"
        " to 100); length is in tokens, latency in seconds a row. Default exactMatch and tokenF1.",
    )
    functions: Annotated[list[MetricFunction], *keyed_by("name")] | None = Field(
        default=None, max_length=8, description="Metrics of your own, as Python functions."
    )
    judges: Annotated[list[Judge], *keyed_by("name")] | None = Field(
        default=None, max_length=4, description="Metrics that other language models decide."
    )
    tasks: Annotated[list[HarnessTask], *keyed_by("name")] | None = Field(
        default=None,
        max_length=MAX_METRICS,
        description="Benchmarks of lm-evaluation-harness, and tasks of your own in its form.",
    )
    max_rows: int = Field(
        default=256,
        ge=1,
        le=100000,
        description="Rows that are answered and compared at most, chosen by seed. Default 256.",
    )
    max_loss_rows: int = Field(
        default=DEFAULT_LOSS_ROWS,
        ge=1,
        le=2**31 - 1,
        description="Rows that loss, perplexity and bitsPerByte are of at most, chosen by the seed"
        " of the Dataset's splits: of held-out rows the same as in a FineTuneJob. Default 2000.",
    )
    seed: Seed = Field(
        default=42,
        description="Seed of the choice of rows to answer, of sampling and of the intervals."
        " Default 42.",
    )
    samples: int = Field(
        default=8,
        ge=0,
        le=100,
        description="Rows whose answers are stored for `kubetune compare`. Default 8.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Number format of the computation. auto takes bf16 where the GPU has it, else"
        " fp32. Default auto.",
    )
    thresholds: list[Threshold] | None = Field(
        default=None,
        max_length=32,
        description="What decides whether the evaluation passes. Default: nothing, it passes.",
    )
    promote: Promotion | None = Field(
        default=None, description="The alias that moves when the evaluation passes. Default: none."
    )
    parallelism: int = Field(
        default=1, ge=1, le=MAX_CANDIDATES, description="Candidates that run at once. Default 1."
    )
    backoff_limit: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Failed attempts of a candidate after which it counts as failed; preemptions"
        " don't count. Default 3.",
    )
    resources: Resources | None = Field(
        default=None, description="What the run of one candidate gets."
    )
    compute_target_ref: ComputeTargetRef | None = Field(
        default=None,
        description="Where to run. Default: the namespace's default target, then the cluster's.",
    )
    active_deadline_seconds: LimitSeconds | None = Field(
        default=None,
        description="Seconds during which runs may be under way, all candidates together; what"
        " runs at the same time counts once, and waiting doesn't count. May be changed."
        " Default: no limit.",
    )
    waiting_deadline_seconds: LimitSeconds | None = Field(
        default=None,
        description="Seconds that the Evaluation may wait until a run can be submitted, in all: for"
        " what it names, its target, or what either needs. Then it fails. Time in which runs queue"
        " or run, in which it is suspended, and between a failed attempt and the next doesn't"
        " count. May be changed. Default: no limit.",
    )
    queue_deadline_seconds: LimitSeconds | None = Field(
        default=None,
        description="Seconds that submitted runs may wait to begin while no candidate runs, all"
        " attempts together: for a queue, a node, images or room in a workspace. Then the"
        " Evaluation fails and no run of it is left. May be changed. Default: no limit.",
    )
    suspend: bool = Field(
        default=False,
        description="Stop all runs and start none until false again; candidates that are measured"
        " stay so. May be changed. Default false.",
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**31 - 1,
        description="Seconds after the end when the Evaluation deletes itself. May be changed."
        " Default: never.",
    )


def measured_metrics(spec: EvaluationSpec) -> list[str]:
    """What the table has: spec.metrics and, next to loss or perplexity, bits per byte."""
    if PER_TOKEN.isdisjoint(spec.metrics) or BITS_PER_BYTE in spec.metrics:
        return list(spec.metrics)
    return [*spec.metrics, BITS_PER_BYTE]


def lower_is_better(spec: EvaluationSpec, metric: str) -> bool:
    """Whether lower values of a metric are better."""
    own = (*(spec.functions or ()), *(spec.tasks or ()))
    return metric in LOWER_IS_BETTER or any(
        item.lower_is_better for item in own if item.name == metric
    )

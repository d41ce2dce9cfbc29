"""Settings of a job's own that would change nothing: refused, rather than accepted and ignored.

Settings of a profile serve jobs of several kinds, so those that a job has no use for are left out.
"""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.kinds.fine_tune_job.spec import FineTuneJobSpec
from kubetune.api.training.axolotl import AxolotlTrainer
from kubetune.api.training.objective_settings import SMOOTHED_LOSSES
from kubetune.api.training.objectives import (
    GRADED_METRICS,
    TRAINING_LOSS,
    baseline_name,
)
from kubetune.api.training.own_code import ScriptTrainer
from kubetune.decide.resources import DatasetResource
from kubetune.decide.settings.own_code import OtherTrainer


def idle_problem(
    spec: FineTuneJobSpec,
    settings: JsonObject,
    dataset: DatasetResource,
    trainer: OtherTrainer | None,
) -> str:
    """A sentence about a setting of the job that can't act; ``settings`` are those in force."""
    return (
        _smoothing(spec, settings)
        or _numbers(spec, settings)
        or _held_out(spec, dataset)
        or _answers(spec, dataset)
        or _promotion(spec, settings, dataset, trainer)
        or _minutes(spec, trainer)
    )


def _smoothing(spec: FineTuneJobSpec, settings: JsonObject) -> str:
    if spec.dpo is None or not spec.dpo.label_smoothing:
        return ""
    losses: list[str] = settings["dpo"]["lossType"]
    if SMOOTHED_LOSSES.isdisjoint(losses):
        return (
            f"dpo.labelSmoothing has no effect on loss {', '.join(losses)}: remove it, or set"
            f" dpo.lossType to {', '.join(sorted(SMOOTHED_LOSSES))}"
        )
    return ""


def _numbers(spec: FineTuneJobSpec, settings: JsonObject) -> str:
    numbers = spec.hyperparameters
    if numbers and numbers.warmup and settings["hyperparameters"]["scheduler"] == "constant":
        return (
            "hyperparameters.warmup has no effect with scheduler constant: use"
            " constant_with_warmup, or remove it"
        )
    if spec.data and spec.data.seed is not None and settings["data"]["fraction"] == 1:
        return (
            "data.seed chooses a share of the rows, and all rows train: set data.fraction, or"
            " remove it"
        )
    return ""


def _held_out(spec: FineTuneJobSpec, dataset: DatasetResource) -> str:
    """What asks for held-out rows where there are none."""
    if rows_held_out(dataset) != 0:
        return ""
    numbers, evaluation = spec.hyperparameters, spec.evaluation
    asked = {
        "hyperparameters.evaluationSteps": numbers and numbers.evaluation_steps,
        "evaluation.baseline": evaluation and evaluation.baseline,
        "evaluation.maxRows": evaluation and evaluation.max_rows,
        "evaluation.maxLossRows": evaluation and evaluation.max_loss_rows,
    }
    named = next((field for field, value in asked.items() if value), None)
    if named is None:
        return ""
    return (
        f"{named} is about held-out rows, and Dataset {dataset.name} has none: set"
        " spec.splits.evaluationFraction of the Dataset, or remove it"
    )


def _answers(spec: FineTuneJobSpec, dataset: DatasetResource) -> str:
    if _is_plain_text(spec, dataset) and spec.evaluation and spec.evaluation.max_rows:
        return (
            "evaluation.maxRows compares answers with those of the data, and rows of Dataset"
            f" {dataset.name} are plain text: remove it"
        )
    return ""


def _promotion(
    spec: FineTuneJobSpec,
    settings: JsonObject,
    dataset: DatasetResource,
    trainer: OtherTrainer | None,
) -> str:
    """A demand on a metric that this job won't have, so that the alias would never move."""
    registry = spec.output.registry if spec.output else None
    evaluation: JsonObject = settings.get("evaluation") or {}
    for rule in (registry.promote_when if registry else None) or ():
        why = ""
        before = rule.metric.startswith("baseline")
        graded = rule.metric in (*GRADED_METRICS, *map(baseline_name, GRADED_METRICS))
        if rule.metric == TRAINING_LOSS:
            why = "a script reports no loss of the whole training" if _is_script(trainer) else ""
        elif rows_held_out(dataset) == 0:
            why = f"Dataset {dataset.name} has no held-out rows"
        elif before and not evaluation.get("baseline"):
            why = "evaluation.baseline is false"
        elif graded and evaluation.get("maxRows") == 0:
            why = "evaluation.maxRows is 0"
        elif graded and _is_plain_text(spec, dataset):
            why = f"rows of Dataset {dataset.name} are plain text"
        if why:
            return (
                f"output.registry.promoteWhen asks for {rule.metric}, which this job can't have, as"
                f" {why}: ask for another metric"
            )
    return ""


def _minutes(spec: FineTuneJobSpec, trainer: OtherTrainer | None) -> str:
    if isinstance(trainer, AxolotlTrainer) and spec.checkpoint and spec.checkpoint.every_minutes:
        return (
            "checkpoint.everyMinutes has no effect on trainer.axolotl, which counts steps: set"
            " checkpoint.everySteps, or remove it"
        )
    return ""


def rows_held_out(dataset: DatasetResource) -> int | None:
    """How many rows the Dataset holds out, as far as it was inspected."""
    rows = dataset.status.get("rows")
    return rows["evaluation"] if rows else None


def _is_plain_text(spec: FineTuneJobSpec, dataset: DatasetResource) -> bool:
    return spec.prompt_ref is None and dataset.spec is not None and dataset.spec.format == "text"


def _is_script(trainer: OtherTrainer | None) -> bool:
    return isinstance(trainer, ScriptTrainer)

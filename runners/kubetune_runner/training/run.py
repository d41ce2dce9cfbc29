"""A training run from plan to outcome, in the order in which a mistake costs least.

What can be checked without torch is checked before it is imported; the MLflow run exists before
that too, so a user sees the job from its first seconds.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import (
    ENV_DATASET_TOKEN,
    TAG_LM_HEAD,
    TAG_METRICS,
    RunPlan,
    in_container,
    outcome_tag,
)
from kubetune.api.training.objectives import OBJECTIVES

from kubetune_runner import data, finite, outcomes, own_code, startup_gc
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import records
from kubetune_runner.mlflow.tracking import NullTracker, Tracker
from kubetune_runner.model import adapter_files, adapters, loading, quantization, starting
from kubetune_runner.model.starting import StartingModel
from kubetune_runner.results import save_results, upload_results
from kubetune_runner.run_log import quieten
from kubetune_runner.signals import StopSignal
from kubetune_runner.text.encoding import EncodedRows
from kubetune_runner.text.prompts import choose
from kubetune_runner.training import checkpoints, packing
from kubetune_runner.training.workers import SINGLE_WORKER, Workers, lost

if TYPE_CHECKING:
    from kubetune_runner.training.held_out import Evaluation
    from kubetune_runner.training.progress import Progress
    from kubetune_runner.training.trainer import RunTrainer

CLOSE_SECONDS = 15.0
"""For the last reports; a signal leaves less, since the grace period runs."""
INTERRUPTED_CLOSE_SECONDS = 5.0
RUN_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""MLflow's words."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Everything that training reads."""

    start: StartingModel
    """The model's files."""
    tokenizer: Any
    train: EncodedRows[Any]
    evaluation: EncodedRows[Any]
    chat: bool
    context: int | None

    @property
    def splits(self) -> dict[str, EncodedRows[Any]]:
        """The rows by split."""
        return {"train": self.train, "evaluation": self.evaluation}


def run(plan: RunPlan, stop: StopSignal) -> Outcome:
    """Train, evaluate and upload.

    Raises RunError when the run can't go on, Interrupted after a signal.
    """
    workers = Workers.of(plan)
    if not workers.leads:
        return _run(plan, stop, NullTracker(plan), workers)
    inherited = dict(os.environ)
    tracker = Tracker(plan)
    tracker.start()
    tracker.phase("preparing")
    tracker.params(records.parameters(plan))
    tracker.call(
        lambda client, run_id: records.log_dataset(client, run_id, plan.dataset, "training")
    )
    try:
        if plan.training.script is None and plan.training.axolotl is None:
            outcome = _run(plan, stop, tracker, workers)
        else:
            outcome = own_code.run(plan, stop, tracker, inherited)
    except BaseException as error:
        close(tracker, outcomes.from_error(error))
        raise
    close(tracker, outcome)
    return outcome


def close(tracker: Tracker, outcome: Outcome) -> None:
    """Report how the run ended."""
    if outcomes.on_cml():
        # The operator may not get at the project's files.
        tracker.tags({outcome_tag(tracker.attempt): outcomes.message_of(outcome)})
    tracker.phase(outcome.status)
    seconds = INTERRUPTED_CLOSE_SECONDS if outcome.status == "interrupted" else CLOSE_SECONDS
    if not tracker.close(RUN_STATUS[outcome.status], seconds):
        log.warning("MLflow didn't get the run's last reports")


def _run(plan: RunPlan, stop: StopSignal, tracker: Tracker, workers: Workers) -> Outcome:
    inputs = _prepare(plan)
    quieten()
    try:
        workers.join()
        outcome = _train(plan, inputs, stop, tracker, workers)
        workers.leave()
        return outcome
    except Exception as error:
        if workers.several and not isinstance(error, RunError) and (ended := lost(error)):
            raise ended from error
        raise
    finally:
        inputs.start.discard()


def _train(
    plan: RunPlan, inputs: Inputs, stop: StopSignal, tracker: Tracker, workers: Workers
) -> Outcome:
    from kubetune_runner.training import objectives, strategies
    from kubetune_runner.training.objectives.base import Measure

    objective = objectives.load(plan.training.objective)
    trainer, progress = _make_trainer(plan, inputs, stop, tracker, workers)
    held_out = Measure(inputs.tokenizer, inputs.evaluation.rows, plan.training, inputs.context)

    def measure() -> Evaluation:
        return objective.evaluate(trainer, held_out)

    baseline = measure() if plan.training.evaluation.baseline else None
    if baseline is not None:
        finite.check_metrics(baseline.as_baseline(), "before any training", finite.OTHER_MODEL)
        tracker.metrics(baseline.as_baseline(), 0)
    counts = inputs.train.counts()
    tracker.metrics({f"train_rows_{key.lower()}": value for key, value in counts.items()}, 0)
    tracker.check()
    tracker.phase("training")
    _fit(plan, stop, trainer, progress, workers)
    tracker.phase("evaluating")
    steps = trainer.state.global_step
    finite.check_weights(trainer.model, f"after step {steps} weights", agree=workers.agree)
    with trainer.compute_loss_context_manager():
        trained = _texts(inputs.train.rows)
        finite.check_scores(
            trainer.model, trained, f"the model of step {steps}", agree=workers.agree
        )
    tuned = measure()
    metrics = dict(tuned.metrics)
    loss = _mean_loss(trainer)
    if loss is not None:
        metrics["train_loss"] = loss
    if baseline is not None:
        metrics |= baseline.as_baseline()
    finite.check_metrics(metrics, f"after step {steps}, although the loss in training was not")
    tracker.metrics(metrics, steps)
    tracker.tags({TAG_METRICS: json.dumps(metrics)})
    if workers.strategy == "fsdp2":
        strategies.gather(trainer.model, keep=workers.leads)
    if not workers.leads:
        return Outcome(
            status="succeeded", reason="Trained", message=f"worker {workers.rank} trained along"
        )
    tracker.phase("uploading")
    saved = save_results(
        plan,
        inputs.start,
        trainer.model,
        inputs.tokenizer,
        chat=inputs.chat,
        rows=_texts(inputs.train.rows),
    )
    summary: dict[str, Any] = {
        "metrics": metrics,
        **upload_results(plan, tracker, saved, inputs.splits, baseline, tuned, metrics),
        "steps": steps,
        **tracker.last_values(),
    }
    return Outcome(
        status="succeeded",
        reason="Trained",
        message=f"trained {steps} steps",
        summary=summary,
    )


def _prepare(plan: RunPlan) -> Inputs:
    """Read and check data and model files; no torch before all rows are read."""
    method = plan.training.method
    for name, given in (("lora", plan.training.lora), ("quantization", plan.training.quantization)):
        if given is None and (method == "qlora" or method == name):
            raise RunError("PlanInvalid", f"plan: training.{name} is missing for method {method}")
    start = starting.fetch(plan.model, plan.training)
    quantization.check(start.base, start.folder, quantize=method == "qlora")
    loading.check_length(start.base, start.folder, plan.training.hyperparameters.max_length)
    loaded = data.load(plan.dataset, os.environ.get(ENV_DATASET_TOKEN) or None)
    data.check_unchanged(plan.dataset, loaded)
    share = (plan.training.data_fraction, plan.training.data_seed)
    rows = choose(list(zip(loaded.train, loaded.train_places, strict=True)), *share)
    tokenizer = loading.load_tokenizer(plan.model, start.tokenizer, plan.training.tokenizer)
    log.info("token that pads: %s", tokenizer.pad_token)
    known = [column.name for column in loaded.columns]
    train, chat = _encode(plan, rows, tokenizer, known)
    held_out = list(zip(loaded.evaluation, loaded.evaluation_places, strict=True))
    evaluation, _ = _encode(plan, held_out, tokenizer, known)
    inputs = Inputs(
        start=start,
        tokenizer=tokenizer,
        train=train,
        evaluation=evaluation,
        chat=chat,
        context=loading.context_length(start.folder),
    )
    if not train.rows:
        limit = plan.training.hyperparameters.max_length
        raise RunError(
            "NoTrainableRows",
            f"dataset {plan.dataset.name}: of {len(rows)} training rows {train.empty} have no"
            f" answer, {train.unusable} don't fit its format, {train.cut_away} have none within"
            f" hyperparameters.maxLength {limit} and {train.dropped} are longer: add answers or"
            " raise maxLength",
        )
    log.info("rows: %s", {split: rows.counts() for split, rows in inputs.splits.items()})
    return inputs


def _encode(
    plan: RunPlan, placed: list[tuple[data.Row, data.Place]], tokenizer: Any, known: list[str]
) -> tuple[EncodedRows[Any], bool]:
    """The rows of a split as the objective reads them, and whether they are chats."""
    from kubetune_runner.training import objectives

    dataset, formats = plan.dataset, OBJECTIVES[plan.training.objective].formats
    if plan.prompt is None and dataset.format not in formats:
        raise RunError(
            "FormatUnsupported",
            f"objective {plan.training.objective} can't learn from dataset {dataset.name}, which"
            f" has format {dataset.format}: it needs {' or '.join(formats)}",
        )
    rows, places = [row for row, _ in placed], [place for _, place in placed]
    return objectives.load(plan.training.objective).encode(rows, places, plan, tokenizer, known)


def _make_trainer(
    plan: RunPlan,
    inputs: Inputs,
    stop: StopSignal,
    tracker: Tracker,
    workers: Workers = SINGLE_WORKER,
) -> tuple[RunTrainer, Progress]:
    from kubetune_runner.training import objectives, progress
    from kubetune_runner.training import trainer as training

    settings, scores = plan.training, OBJECTIVES[plan.training.objective].scores
    objective = objectives.load(settings.objective)
    folder = in_container(settings.checkpoint.directory)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = training.arguments(
        objective.configuration,
        objective.arguments(settings),
        settings,
        folder,
        evaluates=bool(inputs.evaluation.rows),
        workers=workers,
    )
    if arguments.n_gpu > 1:
        raise RunError(
            "SeveralGpus",
            f"the run sees {arguments.n_gpu} GPUs, but a worker uses one: set"
            " resources.gpu to 1, and workers to the number of GPUs",
        )
    lora = settings.lora if settings.method != "full" else None
    quantized = quantization.of_base(settings, training.compute_dtype(settings))

    def load() -> Any:
        seed = settings.hyperparameters.seed if scores else None
        return starting.load(inputs.start, settings, quantized, score_seed=seed)

    model = load()
    rows = (
        ids for split in inputs.splits.values() for row in split.rows for ids in _token_ids(row)
    )
    loading.check_tokens(plan.model.name, model, inputs.tokenizer, rows)
    is_new = inputs.start.adapter is None
    reports = progress.Progress(tracker, stop, plan.lineage_digest, workers)
    held_out = inputs.evaluation.rows
    try:
        trainer = objective.trainer(
            held_out=held_out,
            model=model,
            args=arguments,
            train_dataset=objective.table(inputs.train.rows, settings),
            eval_dataset=objective.table(held_out, settings) if held_out else None,
            processing_class=inputs.tokenizer,
            peft_config=adapters.lora_config(model, lora, scores=scores)
            if lora and is_new
            else None,
            callbacks=[reports],
            **objective.options(settings, model, load),
        )
    except (ValueError, TypeError, NotImplementedError) as error:
        text = str(error).splitlines()[0][:500]
        raise RunError("TrainerRefused", f"trl refuses the settings: {text}") from error
    adapter_files.settle(trainer.model)
    if not scores and not trainer.settle():
        tracker.tags({TAG_LM_HEAD: "model"})
    if getattr(trainer, "padding_free", False):
        packing.check(trainer.model, inputs.train.rows)
    reports.trainer = trainer
    startup_gc.over()
    return trainer, reports


def _fit(
    plan: RunPlan,
    stop: StopSignal,
    trainer: RunTrainer,
    progress: Progress,
    workers: Workers = SINGLE_WORKER,
) -> None:
    folder = in_container(plan.training.checkpoint.directory)
    # One looks, since it also clears away.
    newest = checkpoints.newest(folder, plan.lineage_digest) if workers.leads else None
    checkpoint = workers.share(newest)
    if checkpoint is not None and not checkpoint.is_dir():
        raise RunError(
            "CheckpointNotShared",
            f"worker 0 goes on from {checkpoint.name}, which worker {workers.rank} doesn't see:"
            " give checkpoint.claimName a claim that all workers share (ReadWriteMany)",
        )
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)
        if trainer.restore_finished(checkpoint):
            progress.begin(trainer.state)
            return
    with stop.deferred():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if progress.lost:
        raise RunError(
            finite.REASON,
            f"the loss is not a number any more at step {trainer.state.global_step}:"
            f" {finite.TRAIN_AGAIN}",
        )


def _token_ids(row: Any) -> list[list[int]]:
    """All tokens of a row, of any objective."""
    return [value for value in vars(row).values() if isinstance(value, list)]


def _texts(rows: list[Any]) -> list[list[int]]:
    """The first rows as token ids; of preferences their prompts."""
    return [getattr(row, "input_ids", None) or row.prompt_ids for row in rows[:2]]


def _mean_loss(trainer: RunTrainer) -> float | None:
    from kubetune_runner.training.trainer import mean_loss

    return mean_loss(trainer.state.log_history)

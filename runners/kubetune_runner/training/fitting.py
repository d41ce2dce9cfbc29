"""The trainer of a run, and its steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from kubetune.api.run.plan import TAG_LM_HEAD, RunPlan, in_container
from kubetune.api.training.objectives import OBJECTIVES

from kubetune_runner import finite, startup_gc
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.model import adapter_files, adapters, loading, quantization, starting
from kubetune_runner.signals import StopSignal
from kubetune_runner.training import checkpoints, packing
from kubetune_runner.training.inputs import Inputs
from kubetune_runner.training.workers import SINGLE_WORKER, Workers

if TYPE_CHECKING:
    from kubetune_runner.training.progress import Progress
    from kubetune_runner.training.trainer import RunTrainer

log = logging.getLogger(__name__)


def make_trainer(
    plan: RunPlan,
    inputs: Inputs,
    stop: StopSignal,
    tracker: Tracker,
    workers: Workers = SINGLE_WORKER,
) -> tuple[RunTrainer, Progress]:
    """The objective's trainer with the model loaded, and what reports its steps.

    Raises RunError where model, tokens and settings don't go together.
    """
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
        evaluates=bool(inputs.measured.rows),
        workers=workers,
    )
    lora = settings.lora if settings.method != "full" else None
    sharded = workers.several and workers.strategy == "fsdp2"
    quantized = quantization.of_base(settings, training.compute_dtype(settings), sharded=sharded)

    def load() -> Any:
        seed = settings.hyperparameters.seed if scores else None
        return starting.load(inputs.start, settings, quantized, score_seed=seed)

    model = load()
    largest = [[split.largest] for split in inputs.splits.values()]
    loading.check_tokens(plan.model.name, model, inputs.tokenizer, largest)
    is_new = inputs.start.adapter is None
    minutes = settings.checkpoint.every_minutes
    reports = progress.Progress(tracker, stop, plan.lineage_digest, workers, minutes)
    held_out = inputs.measured.rows
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


def fit(
    plan: RunPlan,
    stop: StopSignal,
    trainer: RunTrainer,
    progress: Progress,
    workers: Workers = SINGLE_WORKER,
) -> None:
    """Train to the last step, from the newest checkpoint where there is one.

    Raises RunError CheckpointNotShared, LossNotFinite or NoProgress, Interrupted after a signal.
    """
    folder = in_container(plan.training.checkpoint.directory)
    # One looks, since it also clears away.
    newest = checkpoints.newest(folder, plan.lineage_digest) if workers.leads else None
    progress.keeps(newest)
    checkpoint = workers.share(newest)
    if checkpoint is not None and not checkpoint.is_dir():
        raise RunError(
            "CheckpointNotShared",
            f"rank 0 continues from {checkpoint.name}, which rank {workers.rank} doesn't see:"
            " give checkpoint.claimName a claim that all workers share (ReadWriteMany)",
        )
    if checkpoint is not None:
        log.info("continuing from %s", checkpoint)
        if trainer.restore_finished(checkpoint):
            progress.begin(trainer.state)
            return
    from kubetune_runner.training import hang

    seconds = plan.training.progress_deadline_seconds
    guard = hang.HangGuard(seconds) if seconds else None
    if guard:
        trainer.add_callback(guard)
    try:
        with stop.deferred():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        if guard:
            guard.over()
    if progress.lost:
        raise RunError(
            finite.REASON,
            f"the loss is not a number any more at step {trainer.state.global_step}:"
            f" {finite.TRAIN_AGAIN}",
        )

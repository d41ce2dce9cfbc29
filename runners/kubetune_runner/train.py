"""A training run from plan to outcome, in the order in which a mistake costs least.

What can be checked without torch is checked before it is imported; the MLflow run exists before
that too, so a user sees the job from its first seconds.
"""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetune.api.outcome import Outcome
from kubetune.api.plan import (
    ENV_DATASET_TOKEN,
    TAG_MODEL_ID,
    TAG_MODEL_PATH,
    DatasetPlan,
    RunPlan,
    in_container,
    outcome_tag,
)

from kubetune_runner import adapters, checkpoints, data, models, outcomes, quantization
from kubetune_runner.encoding import EncodedRows, encode
from kubetune_runner.errors import RunError
from kubetune_runner.prompts import choose, make_examples
from kubetune_runner.signals import StopSignal
from kubetune_runner.tracking import Tracker

if TYPE_CHECKING:
    from kubetune_runner.evaluation import Evaluation
    from kubetune_runner.trainer import Progress, Trainer

CLOSE_SECONDS = 15.0
"""For the last reports; a signal leaves less, since the grace period runs."""
INTERRUPTED_CLOSE_SECONDS = 5.0
RUN_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
"""MLflow's words."""
MAX_SAMPLES = 8
PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "mlflow")
OPTIONAL_PACKAGES = ("bitsandbytes",)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Everything that training reads."""

    folder: Path
    """The model's files."""
    tokenizer: Any
    train: EncodedRows
    evaluation: EncodedRows
    chat: bool
    context: int | None


def run(plan: RunPlan, stop: StopSignal) -> Outcome:
    """Train, evaluate and upload.

    Raises RunError when the run can't go on, Interrupted after a signal.
    """
    tracker = Tracker(plan)
    tracker.start()
    tracker.phase("preparing")
    tracker.params(_parameters(plan))
    tracker.call(lambda client, run_id: _log_dataset(client, run_id, plan.dataset))
    try:
        outcome = _run(plan, stop, tracker)
    except BaseException as error:
        _close(tracker, outcomes.from_error(error))
        raise
    _close(tracker, outcome)
    return outcome


def _close(tracker: Tracker, outcome: Outcome) -> None:
    """Report how the run ended."""
    if outcomes.on_cml():
        # The operator may not get at the project's files.
        tracker.tags({outcome_tag(tracker.attempt): outcomes.message_of(outcome)})
    tracker.phase(outcome.status)
    seconds = INTERRUPTED_CLOSE_SECONDS if outcome.status == "interrupted" else CLOSE_SECONDS
    if not tracker.close(RUN_STATUS[outcome.status], seconds):
        log.warning("MLflow didn't get the run's last reports")


def _run(plan: RunPlan, stop: StopSignal, tracker: Tracker) -> Outcome:
    inputs = _prepare(plan)
    _quieten()
    from kubetune_runner.evaluation import evaluate

    trainer, progress = _make_trainer(plan, inputs, stop, tracker)

    def measure() -> Evaluation:
        return evaluate(
            trainer,
            inputs.tokenizer,
            inputs.evaluation.rows,
            plan.training.evaluation,
            inputs.context,
        )

    baseline = measure() if plan.training.evaluation.baseline else None
    if baseline is not None:
        tracker.metrics(_prefixed(baseline), 0)
    tracker.phase("training")
    _fit(plan, stop, trainer, progress)
    tracker.phase("evaluating")
    tuned = measure()
    metrics = dict(tuned.metrics)
    loss = _mean_loss(trainer)
    if loss is not None:
        metrics["train_loss"] = loss
    if baseline is not None:
        metrics |= _prefixed(baseline)
    tracker.metrics(metrics, trainer.state.global_step)
    tracker.phase("uploading")
    summary: dict[str, Any] = {
        "metrics": metrics,
        **_upload(plan, tracker, trainer, inputs, baseline, tuned),
        "runId": tracker.run_id or "",
        "experimentId": tracker.experiment_id or "",
        "steps": trainer.state.global_step,
        "rows": _row_counts(inputs),
    }
    return Outcome(
        status="succeeded",
        reason="Trained",
        message=f"trained {trainer.state.global_step} steps",
        summary=summary,
    )


def _prepare(plan: RunPlan) -> Inputs:
    """Read and check data and model files; no torch."""
    method = plan.training.method
    for name, given in (("lora", plan.training.lora), ("quantization", plan.training.quantization)):
        if given is None and (method == "qlora" or method == name):
            raise RunError("PlanInvalid", f"plan: training.{name} is missing for method {method}")
    folder = models.fetch(plan.model)
    quantization.check(plan.model, folder, quantize=method == "qlora")
    models.check_length(plan.model, folder, plan.training.hyperparameters.max_length)
    loaded = data.load(plan.dataset, os.environ.get(ENV_DATASET_TOKEN) or None)
    for found, expected in (
        (loaded.digest, plan.dataset.digest),
        (loaded.split_digest, plan.dataset.split_digest),
    ):
        if expected is not None and found != expected:
            raise RunError(
                "DatasetChanged",
                f"dataset {plan.dataset.name} is not what was inspected (digest {found[:19]}…,"
                f" expected {expected[:19]}…): restore the files, or apply the Dataset under a"
                " new name",
            )
    rows = choose(loaded.train, plan.training.data_fraction, plan.training.data_seed)
    train = make_examples(rows, plan.dataset, plan.prompt)
    held_out = make_examples(loaded.evaluation, plan.dataset, plan.prompt)
    tokenizer = models.load_tokenizer(plan.model, folder)
    limit = plan.training.hyperparameters.max_length
    inputs = Inputs(
        folder=folder,
        tokenizer=tokenizer,
        train=encode(train, tokenizer, limit),
        evaluation=encode(held_out, tokenizer, limit),
        chat=any(example.messages is not None for example in train[:1]),
        context=models.context_length(folder),
    )
    counts = inputs.train
    if not counts.rows:
        raise RunError(
            "NoTrainableRows",
            f"dataset {plan.dataset.name}: of {len(train)} training rows {counts.empty} have no"
            f" answer and {counts.cut_away} none within hyperparameters.maxLength {limit}: add"
            " answers or raise maxLength",
        )
    log.info("rows: %s", _row_counts(inputs))
    return inputs


def _make_trainer(
    plan: RunPlan, inputs: Inputs, stop: StopSignal, tracker: Tracker
) -> tuple[Trainer, Progress]:
    from kubetune_runner import trainer as training

    folder = in_container(plan.training.checkpoint.directory)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = training.arguments(plan.training, folder, evaluates=bool(inputs.evaluation.rows))
    if arguments.n_gpu > 1:
        raise RunError(
            "SeveralGpus",
            f"the run sees {arguments.n_gpu} GPUs, but one is used: set resources.gpu to 1",
        )
    lora = plan.training.lora if plan.training.method != "full" else None
    quantized = None
    if plan.training.method == "qlora" and plan.training.quantization and lora:
        quantized = quantization.configuration(
            plan.training.quantization, training.compute_dtype(plan.training), dora=lora.use_dora
        )
    model = models.load_model(
        plan.model, inputs.folder, training.weights_dtype(plan.training), quantized
    )
    progress = training.Progress(tracker, stop, plan.lineage_digest)
    try:
        trainer = training.Trainer(
            held_out=inputs.evaluation.rows,
            model=model,
            args=arguments,
            train_dataset=training.table(inputs.train.rows),
            processing_class=inputs.tokenizer,
            peft_config=adapters.lora_config(model, lora) if lora else None,
            callbacks=[progress],
        )
    except (ValueError, TypeError) as error:
        text = str(error).splitlines()[0][:500]
        raise RunError("TrainerRefused", f"trl refuses the settings: {text}") from error
    progress.trainer = trainer
    return trainer, progress


def _fit(plan: RunPlan, stop: StopSignal, trainer: Trainer, progress: Progress) -> None:
    folder = in_container(plan.training.checkpoint.directory)
    checkpoint = checkpoints.newest(folder, plan.lineage_digest)
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)
        if trainer.restore_finished(checkpoint):
            progress.on_train_begin(trainer.args, trainer.state, trainer.control)
            return
    with stop.deferred():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if progress.lost:
        raise RunError(
            "LossNotFinite",
            f"the loss is not a number any more at step {trainer.state.global_step}: lower"
            " hyperparameters.learningRate, or use precision fp32",
        )


def _upload(
    plan: RunPlan,
    tracker: Tracker,
    trainer: Trainer,
    inputs: Inputs,
    baseline: Evaluation | None,
    tuned: Evaluation,
) -> dict[str, str]:
    """Upload the result; returns where it is, for the summary."""
    from kubetune_runner.upload import ARTIFACT_PATH, save, upload

    name = "model" if plan.training.method == "full" else "adapter"
    folder = in_container(plan.training.checkpoint.directory) / "result" / name
    save(
        trainer.model,
        inputs.tokenizer,
        plan.model,
        folder,
        chat=inputs.chat,
        max_new_tokens=plan.training.evaluation.max_new_tokens,
    )
    artifacts: dict[str, Any] = {
        "environment.json": _environment(),
        "rows.json": _row_counts(inputs),
        "plan.json": plan.to_json(),
    }
    if baseline is not None and tuned.rows:
        answers = zip(tuned.rows, baseline.answers, tuned.answers, strict=True)
        artifacts["samples.json"] = [
            {"prompt": row.prompt, "reference": row.reference, "base": before, "tuned": after}
            for row, before, after in list(answers)[:MAX_SAMPLES]
        ]
    model_id = upload(tracker, folder, artifacts)
    if model_id is None:
        tracker.tags({TAG_MODEL_PATH: ARTIFACT_PATH})
        return {"artifactPath": ARTIFACT_PATH}
    tracker.tags({TAG_MODEL_ID: model_id})
    return {"modelId": model_id}


def _mean_loss(trainer: Trainer) -> float | None:
    from kubetune_runner.trainer import mean_loss

    return mean_loss(trainer.state.log_history)


def _prefixed(evaluation: Evaluation) -> dict[str, float]:
    return {f"baseline_{key}": value for key, value in evaluation.metrics.items()}


def _row_counts(inputs: Inputs) -> dict[str, Any]:
    """What became of the rows, by split."""
    return {
        split: {
            "used": len(rows.rows),
            "empty": rows.empty,
            "cut": rows.cut,
            "cutAway": rows.cut_away,
        }
        for split, rows in (("train", inputs.train), ("evaluation", inputs.evaluation))
    }


def _parameters(plan: RunPlan) -> dict[str, Any]:
    """The plan's settings, flat, as MLflow parameters."""
    training = plan.training.to_json()
    training.pop("checkpoint", None)

    def flat(prefix: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {
                k: v
                for key, item in value.items()
                for k, v in flat(f"{prefix}{key}.", item).items()
            }
        return {prefix.rstrip("."): value}

    model, revision = models.reference(plan.model)
    return {
        **flat("", training),
        "model": model,
        "model.revision": plan.model.revision or revision or "",
        "dataset": plan.dataset.name,
        "dataset.digest": plan.dataset.digest or "",
        "dataset.splitDigest": plan.dataset.split_digest or "",
    }


def _log_dataset(client: Any, run_id: str, dataset: DatasetPlan) -> None:
    """Show the dataset on the run's page; MLflow keeps 36 characters of a digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest = (dataset.digest or "").removeprefix("sha256:")[:36]
    source = dataset.to_json().get("hub") or dataset.to_json().get("files") or {}
    entity = Dataset(
        name=dataset.name, digest=digest or "unknown", source_type="kubetune", source=str(source)
    )
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])


def _quieten() -> None:
    """Keep the libraries' progress bars and deprecations out of the run's log."""
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="(transformers|trl)\\..*")
    # MLflow's advice for authors of predict functions and examples.
    warnings.filterwarnings("ignore", message=".*(Add type hints|An input example was not)")


def _environment() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "packages": {
            name: version(name)
            for name in (*PACKAGES, *(name for name in OPTIONAL_PACKAGES if find_spec(name)))
        },
        "device": torch.cuda.get_device_name() if gpu else platform.machine(),
        "threads": torch.get_num_threads(),
    }

"""trl's trainer, set up from the plan: arguments, progress, checkpoints, held-out loss."""

from __future__ import annotations

import logging
import math
import time
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from kubetune.api.plan import (
    METRIC_ETA,
    METRIC_STEP,
    METRIC_TOKENS_PER_SECOND,
    TAG_TOTAL_STEPS,
    TrainingPlan,
)
from peft import get_peft_model
from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback, TrainerCallback, TrainerState
from trl.trainer import utils as _trl_utils
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from kubetune_runner import checkpoints
from kubetune_runner.encoding import EncodedRow
from kubetune_runner.errors import RunError
from kubetune_runner.signals import StopSignal
from kubetune_runner.tracking import Tracker

log = logging.getLogger(__name__)

trl_utils: Any = _trl_utils


def precision(plan: TrainingPlan) -> str:
    """The number format of the computation on this device: fp32, bf16 or fp16."""
    wanted = plan.hyperparameters.precision
    gpu = torch.cuda.is_available()
    if wanted == "auto":
        return "bf16" if gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if wanted == "fp16" and not gpu:
        raise RunError(
            "PrecisionUnsupported",
            "hyperparameters.precision is fp16, which needs a GPU: use auto, or set resources.gpu",
        )
    return wanted


def weights_dtype(plan: TrainingPlan) -> torch.dtype:
    """Frozen weights take the computation's format; weights that train stay in fp32."""
    lora = plan.lora
    if plan.method == "full" or (lora and (lora.modules_to_save or lora.bias != "none")):
        return torch.float32
    return compute_dtype(plan)


def compute_dtype(plan: TrainingPlan) -> torch.dtype:
    """The number format of the computation."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision(plan)]


def arguments(plan: TrainingPlan, output: Path, *, evaluates: bool) -> SFTConfig:
    """trl's configuration for the plan.

    Raises RunError InvalidArguments naming the argument of trainer.trl.arguments.
    """
    given = plan.hyperparameters
    gpu = torch.cuda.is_available()
    compute = precision(plan)
    checkpointing = given.gradient_checkpointing
    typed: dict[str, Any] = {
        "output_dir": str(output),
        "num_train_epochs": given.epochs or 1,
        "max_steps": given.max_steps or -1,
        "learning_rate": given.learning_rate,
        "per_device_train_batch_size": given.per_device_batch_size,
        "per_device_eval_batch_size": given.per_device_batch_size,
        "gradient_accumulation_steps": given.gradient_accumulation_steps,
        "max_length": given.max_length,
        "packing": given.packing,
        "eval_packing": False,
        "lr_scheduler_type": given.scheduler,
        "warmup_steps": given.warmup,
        "weight_decay": given.weight_decay,
        "max_grad_norm": given.max_grad_norm,
        "bf16": compute == "bf16",
        "fp16": compute == "fp16",
        "gradient_checkpointing": gpu if checkpointing is None else checkpointing,
        "logging_steps": given.logging_steps,
        "logging_first_step": True,
        # A loss that isn't a number must be seen, not replaced.
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if given.evaluation_steps and evaluates else "no",
        "eval_steps": given.evaluation_steps,
        "save_strategy": "steps",
        "save_steps": plan.checkpoint.every_steps,
        "save_total_limit": plan.checkpoint.keep,
        "seed": given.seed,
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "report_to": "none",
        "disable_tqdm": True,
        # Rows come with labels and cut to length; only packing is left to trl.
        "dataset_kwargs": {"skip_prepare_dataset": not given.packing},
    }
    extra = {name: _argument(name, value) for name, value in plan.arguments.items()}
    try:
        return SFTConfig(**{**extra, **typed})
    except (TypeError, ValueError) as error:
        raise RunError("InvalidArguments", f"trainer.trl.arguments: {error}") from error


def _argument(name: str, value: Any) -> Any:
    """The value in the type that trl's configuration declares for it."""
    hints = typing.get_type_hints(SFTConfig)
    if name not in hints:
        raise RunError(
            "InvalidArguments",
            f"trainer.trl.arguments.{name} is not an argument of this trl version: remove it",
        )
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(
            hints[name], config=ConfigDict(arbitrary_types_allowed=True)
        )
        return adapter.validate_python(value)
    except ValidationError as error:
        raise RunError(
            "InvalidArguments",
            f"trainer.trl.arguments.{name}: {value!r}: {error.errors()[0]['msg']}",
        ) from error


def table(rows: list[EncodedRow]) -> Dataset:
    """Rows as the table that trl trains on."""
    return Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )


class Trainer(SFTTrainer):
    """SFTTrainer with a held-out loss that is a mean over tokens, whatever the batches are."""

    def __init__(self, *, held_out: list[EncodedRow], **options: Any) -> None:
        if not torch.cuda.is_available():
            _score_labels_only()
        tokenizer: Any = options["processing_class"]
        exact: dict[str, torch.Tensor] = {}
        if getattr(options["model"], "is_quantized", False):
            options["model"] = _with_adapter(options, options.pop("peft_config"))
            exact = {n: p.data for n, p in options["model"].named_parameters() if p.requires_grad}
        super().__init__(eval_dataset=table(held_out) if held_out else None, **options)
        # trl turns weights that train on a quantized model to bf16, which is too coarse for the
        # steps of usual learning rates.
        model: Any = self.model
        for name, parameter in model.named_parameters():
            if name in exact:
                parameter.data = exact[name]
        self.held_out = sorted(held_out, key=lambda row: len(row.input_ids))
        self._collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
        # It prints what Progress logs.
        self.remove_callback(PrinterCallback)

    @property
    def tokens_seen(self) -> int:
        """Tokens trained on in this process."""
        return int(self._total_train_tokens)

    def restore_finished(self, checkpoint: Path) -> bool:
        """Take over a checkpoint of the last step; False when there are steps left to train.

        ``train`` would make one more step before it sees that none is left.
        """
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if state.global_step < state.max_steps:
            return False
        self._load_from_checkpoint(str(checkpoint))
        self.state = state
        return True

    def held_out_loss(self) -> float:
        """Negative log-likelihood per labelled token, over all held-out rows."""
        total, tokens = 0.0, 0
        model: Any = self.model
        training = model.training
        model.eval()
        batch = self.args.per_device_eval_batch_size
        for start in range(0, len(self.held_out), batch):
            rows = [
                {"input_ids": row.input_ids, "labels": row.labels}
                for row in self.held_out[start : start + batch]
            ]
            inputs = self._prepare_inputs(self._collate.torch_call(rows))
            with torch.no_grad(), self.compute_loss_context_manager():
                output = model(**inputs, use_cache=False, fused_lm_head=True)
            total -= output.log_probs.double().sum().item()
            tokens += int(output.label_mask.sum().item())
        model.train(training)
        return total / tokens

    def evaluate(self, *_args: Any, metric_key_prefix: str = "eval", **_options: Any) -> Any:
        """Held-out loss between steps."""
        metrics = {f"{metric_key_prefix}_loss": self.held_out_loss()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def _with_adapter(options: Mapping[str, Any], adapter: Any) -> Any:
    """The model with an adapter that is the same for equal seeds, as trl makes it."""
    set_seed(options["args"].seed)
    return get_peft_model(options["model"], adapter)


def _score_labels_only() -> None:
    """Keep trl's head from scoring prompts and padding, as it does only on GPUs.

    It is a private name (trl 1.16): without it training is a third slower, and right.
    """
    if hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True
    else:
        log.warning("this trl version has no fast head for CPUs; training is slower")


class Progress(TrainerCallback):
    """Reports to the tracker, seals checkpoints, stops on signals and on a lost loss."""

    def __init__(self, tracker: Tracker, stop: StopSignal, lineage_digest: str) -> None:
        self.trainer: Trainer | None = None
        self.lost = False
        """Whether the loss stopped being a number."""
        self._tracker = tracker
        self._stop = stop
        self._lineage_digest = lineage_digest
        self._began = time.monotonic()
        self._first_step = self._step = self._total = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training starts or goes on."""
        self._began = time.monotonic()
        self._first_step = self._step = state.global_step
        self._total = state.max_steps
        # An attempt that was killed took its unsent reports with it; the checkpoint has them.
        for entry in state.log_history:
            self._report(entry, entry["step"])
        self._tracker.tags({TAG_TOTAL_STEPS: str(state.max_steps)})
        self._tracker.watch(self._gauges)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop before more work when told so."""
        if self._stop.received:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step was made."""
        self._step = state.global_step
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._stop.received:
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Metrics of a step."""
        values = self._report(logs or {}, state.global_step)
        if not all(math.isfinite(values.get(key, 0.0)) for key in ("loss", "eval_loss")):
            self.lost = control.should_training_stop = True
            control.should_save = False
        if values:
            log.info(
                "step %d/%d: %s",
                state.global_step,
                state.max_steps,
                " ".join(f"{key}={value:.4g}" for key, value in values.items()),
            )

    def _report(self, logs: Mapping[str, Any], step: int) -> dict[str, float]:
        """Pass a step's metrics on; returns them."""
        # The trainer's last words are sums over the run, which don't belong to a step.
        if "train_runtime" in logs:
            return {}
        values = {
            key: float(value)
            for key, value in logs.items()
            if isinstance(value, int | float) and key != "step"
        }
        self._tracker.metrics(values, step, once=True)
        return values

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint was written."""
        folder = Path(args.output_dir) / f"{checkpoints.PREFIX}{state.global_step}"
        checkpoints.seal(folder, self._lineage_digest)

    def _gauges(self) -> tuple[int, Mapping[str, float]] | None:
        done = self._step - self._first_step
        values: dict[str, float] = {METRIC_STEP: self._step}
        seconds = time.monotonic() - self._began
        if done > 0 and seconds > 0:
            values[METRIC_ETA] = seconds / done * (self._total - self._step)
            values[METRIC_TOKENS_PER_SECOND] = (
                self.trainer.tokens_seen / seconds if self.trainer else 0.0
            )
        return self._step, values


def mean_loss(history: list[dict[str, Any]]) -> float | None:
    """Training loss over all steps of all attempts, from the trainer's log."""
    total, last = 0.0, 0
    for entry in history:
        if "loss" in entry and entry["step"] > last:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / last if last else None

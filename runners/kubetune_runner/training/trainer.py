"""What trl's trainers have in common here: arguments from the plan, weights, held-out metrics."""

from __future__ import annotations

import logging
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from kubetune.api.run.training_plan import TrainingPlan
from peft import get_peft_model
from peft.helpers import disable_input_dtype_casting
from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import Trainer, set_seed
from transformers.trainer_callback import PrinterCallback, TrainerState

from kubetune_runner.errors import RunError
from kubetune_runner.model import heads, shortcuts
from kubetune_runner.model import precision as precisions
from kubetune_runner.model.parameter_lists import ParameterListCache
from kubetune_runner.stages import Report, unseen
from kubetune_runner.training import strategies
from kubetune_runner.training.compensated import CompensatedAdamW
from kubetune_runner.training.workers import SINGLE_WORKER, Workers

log = logging.getLogger(__name__)


def precision(plan: TrainingPlan) -> str:
    """The number format of the computation on this device: fp32, bf16 or fp16."""
    wanted = plan.hyperparameters.precision
    if wanted == "auto" and plan.weights:
        wanted = plan.weights
    return precisions.chosen(wanted, "hyperparameters.precision")


def weights_dtype(plan: TrainingPlan) -> torch.dtype:
    """Frozen weights take the computation's format, those that train fp32 or what is planned."""
    lora = plan.lora
    if plan.weights:
        return precisions.DTYPES[plan.weights]
    if plan.method == "full" or (lora and (lora.modules_to_save or lora.bias != "none")):
        return torch.float32
    return compute_dtype(plan)


def compute_dtype(plan: TrainingPlan) -> torch.dtype:
    """The number format of the computation."""
    return precisions.DTYPES[precision(plan)]


def arguments(
    configuration: type[Any],
    own: Mapping[str, Any],
    plan: TrainingPlan,
    output: Path,
    *,
    evaluates: bool,
    workers: Workers = SINGLE_WORKER,
) -> Any:
    """trl's configuration for the plan; ``own`` are the arguments that the objective sets.

    Raises RunError InvalidArguments naming the argument of trainer.trl.arguments.
    """
    given = plan.hyperparameters
    gpu = torch.cuda.is_available()
    compute = precision(plan)
    checkpointing = given.gradient_checkpointing
    checkpointing = gpu if checkpointing is None else checkpointing
    typed: dict[str, Any] = {
        "output_dir": str(output),
        "num_train_epochs": given.epochs or 1,
        "max_steps": given.max_steps or -1,
        "learning_rate": given.learning_rate,
        "per_device_train_batch_size": given.per_device_batch_size,
        "per_device_eval_batch_size": given.per_device_batch_size,
        "gradient_accumulation_steps": given.gradient_accumulation_steps,
        "max_length": given.max_length,
        "lr_scheduler_type": given.scheduler,
        "warmup_steps": given.warmup,
        "weight_decay": given.weight_decay,
        "max_grad_norm": given.max_grad_norm,
        "bf16": compute == "bf16",
        "fp16": compute == "fp16",
        "gradient_checkpointing": checkpointing,
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
        **strategies.arguments(workers, recomputes=checkpointing),
    }
    extra = {name: _argument(configuration, name, value) for name, value in plan.arguments.items()}
    try:
        made = configuration(**{**extra, **typed, **own})
    except (TypeError, ValueError) as error:
        raise RunError("InvalidArguments", f"trainer.trl.arguments: {error}") from error
    if made.n_gpu > 1:
        # A process has one, whatever else it sees; the rest would get copies of the model.
        made._n_gpu = 1
    strategies.announce(workers)
    return made


def _argument(configuration: type[Any], name: str, value: Any) -> Any:
    """The value in the type that trl's configuration declares for it."""
    hints = typing.get_type_hints(configuration)
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


class RunTrainer(Trainer):
    """What all of trl's trainers get here; it stands before one of them among the bases."""

    # Of each of trl's trainers.
    _metrics: Any
    _total_train_tokens: Any

    def __init__(self, *, held_out: Sequence[Any] = (), **options: Any) -> None:
        if not torch.cuda.is_available():
            heads.score_labels_only()
        self.encoded = held_out
        self.report: Report = unseen
        """Told how many held-out rows are measured."""
        self.to_measure = 0
        """How many there will be, with the answers to them."""
        self._operations_per_token: int | None = None
        exact: dict[str, torch.Tensor] = {}
        quantized = getattr(options["model"], "is_quantized", False)
        # An adapter that continues is there already.
        made_here = quantized and options.get("peft_config")
        if quantized:
            adapter = options.pop("peft_config")
            if made_here:
                options["model"] = _with_adapter(options, adapter)
            exact = {n: p.data for n, p in options["model"].named_parameters() if p.requires_grad}
        super().__init__(**options)
        # trl turns weights that train on a quantized model to bf16, which is too coarse for the
        # steps of usual learning rates.
        model: Any = self.model
        for name, parameter in model.named_parameters():
            if name in exact:
                parameter.data = exact[name]
        if made_here and "ref" in model.peft_config:
            # trl takes the adapter for one that was trained before and keeps a copy to compare
            # with; a new one is switched off instead.
            model.delete_adapter("ref")
        # It prints what Progress logs.
        self.remove_callback(PrinterCallback)
        self.add_callback(ParameterListCache())

    def train(self, *args: Any, **options: Any) -> Any:
        """Train, with adapters that read what their layers read.

        In 16 bits peft casts it to the adapter's fp32, and autocast casts that back and keeps
        the copy for backward, of each adapter one. The numbers are the same without.
        """
        half = self.args.bf16 or self.args.fp16
        with disable_input_dtype_casting(typing.cast("torch.nn.Module", self.model), active=half):
            return super().train(*args, **options)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> Any:
        """As transformers has it, but for weights of 16 bits, whose steps would be lost."""
        weights: Any = () if model is None else model.parameters()
        if any(weight.requires_grad and weight.dtype == torch.bfloat16 for weight in weights):
            return CompensatedAdamW, {
                "lr": args.learning_rate,
                "betas": (args.adam_beta1, args.adam_beta2),
                "eps": args.adam_epsilon,
            }
        return Trainer.get_optimizer_cls_and_kwargs(args, model)

    def settle(self) -> bool:
        """Leave the shortcuts that don't give what the model's own forward gives.

        Returns whether trl's head is one of those that stay.
        """
        given: Any = self.args.gradient_checkpointing_kwargs or {}
        options = given if self.args.gradient_checkpointing else None
        found = shortcuts.settle(
            self.model,
            self.processing_class,
            training=True,
            context=self.compute_loss_context_manager,
            checkpointing=options,
        )
        self.args.gradient_checkpointing = found.checkpointing
        if not found.balance:
            # Some mixtures of experts have a weight for such a loss, but not the loss.
            self.aux_loss_enabled = False
        reference: Any = getattr(self, "ref_model", None)
        if reference is not None and not found.head:
            heads.use_own(reference)
        return found.head

    @property
    def loss_rows(self) -> int:
        """Held-out rows that metrics are of."""
        return len(self.encoded)

    def measured(self, rows: int) -> None:
        """Tell that so many are done."""
        self.report(rows, max(self.to_measure, self.loss_rows))

    @property
    def tokens_seen(self) -> int:
        """Tokens trained on in this process."""
        return int(self._total_train_tokens)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """What transformers computes, without a walk over all parameters at each step."""
        name = getattr(self.model, "main_input_name", "input_ids")
        return inputs[name].numel() * self._operations(name) if name in inputs else 0

    def _operations(self, name: str) -> int:
        """For one token."""
        if self._operations_per_token is None:
            self._operations_per_token = int(super().floating_point_ops({name: torch.zeros(1)}))
        return self._operations_per_token

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

    def held_out_metrics(self) -> dict[str, float]:
        """Loss and further metrics of the held-out rows."""
        raise NotImplementedError

    def evaluate(self, *_args: Any, metric_key_prefix: str = "eval", **_options: Any) -> Any:
        """Held-out metrics between steps."""
        model: Any = self.model
        found = self.held_out_metrics()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        training = model.training
        # In this mode trl adds nothing of the training steps.
        model.eval()
        self.log(dict(metrics))
        model.train(training)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def _with_adapter(options: Mapping[str, Any], adapter: Any) -> Any:
    """The model with an adapter that is the same for equal seeds, as trl makes it."""
    set_seed(options["args"].seed)
    return get_peft_model(options["model"], adapter)


def mean_loss(history: list[dict[str, Any]]) -> float | None:
    """Training loss over all steps of all attempts, from the trainer's log."""
    total, last = 0.0, 0
    for entry in history:
        if "loss" in entry and entry["step"] > last:
            total += entry["loss"] * (entry["step"] - last)
            last = entry["step"]
    return total / last if last else None

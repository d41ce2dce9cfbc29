"""Settings of a training run, shared by FineTuneJob, TuningProfile and the run plan.

A field that a profile may set has no default here: a default written by the API server
would look like the user's own value. Built-in defaults stand in kubetune.decide.settings.effective.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kubetune.api.schema.base import ObjectName, Value
from kubetune.api.schema.kubernetes_values import Labels, Quantity
from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.rules import Rule, at_most_one
from kubetune.api.training.automatic import BatchSize, Switch
from kubetune.api.training.axolotl import AxolotlTrainer
from kubetune.api.training.chat_templates import CHAT_TEMPLATES, MODEL
from kubetune.api.training.method import Method
from kubetune.api.training.objective_settings import ObjectiveSettings
from kubetune.api.training.own_code import ScriptTrainer
from kubetune.api.training.trl_arguments import TrainerArguments

ContinueFrom = Literal["adapter", "merged"]
Strategy = Literal["ddp", "fsdp2"]
Scheduler = Literal[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
]
LongRows = Literal["truncate", "drop", "refuse"]
OnOutOfMemory = Literal["Fail", "Retry", "HalveBatch"]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Hyperparameters(Value):
    """Numbers of the optimisation, typed; the rest goes to trainer.trl.arguments."""

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most_one("epochs", "max_steps", hint="both say when training ends"),
        Rule(
            cel="!has(self.warmup) || self.warmup == 0.0 || !has(self.scheduler) ||"
            " self.scheduler != 'constant'",
            message="scheduler constant has no warm-up: use constant_with_warmup, or remove it",
            check=lambda numbers: not numbers.warmup or numbers.scheduler != "constant",
            field="warmup",
        ),
    )

    epochs: float | None = Field(
        default=None, gt=0, le=10000, description="Passes over the training rows. Default 3."
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Optimizer steps, instead of epochs. Default: none, epochs decide.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=10,
        description="Peak learning rate. Default for lora and qlora 2e-4 with objective sft, 5e-6"
        " with dpo and kto, 1e-4 with reward; for full a tenth of that.",
    )
    per_device_batch_size: BatchSize | None = Field(
        default=None,
        description="Rows per device and micro-step, or auto: the largest batch that the estimate"
        " says leaves 15% of the memory free, with so much gradientAccumulationSteps that a step"
        " learns from as many rows as with the number that the profile has, or with 8."
        " Default 8.",
    )
    gradient_accumulation_steps: int | None = Field(
        default=None, ge=1, le=65536, description="Micro-steps per optimizer step. Default 1."
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        le=2**20,
        description="Tokens of a row. Longer ones are cut at the end, unless data.longRows says"
        " otherwise or, with objective reward, left out. Default 1024 or the model's context length"
        " if that is smaller.",
    )
    packing: bool | None = Field(
        default=None,
        description="Fill sequences of maxLength tokens with several rows, which don't see each"
        " other, with objective sft. Faster where rows are short. Refused for models that can't"
        " keep them apart. Default false.",
    )
    scheduler: Scheduler | None = Field(
        default=None, description="Shape of the learning rate over steps. Default linear."
    )
    warmup: float | None = Field(
        default=None,
        ge=0,
        le=1000000,
        description="Warm-up: below 1 a share of all steps, else a number of steps. Default 0.03.",
    )
    weight_decay: float | None = Field(
        default=None, ge=0, le=10, description="Decoupled weight decay of AdamW. Default 0."
    )
    max_grad_norm: float | None = Field(
        default=None, gt=0, le=1000, description="Gradient norm is clipped to this. Default 1."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = Field(
        default=None,
        description="Number format of the computation. auto takes bf16 where the GPU has it, else"
        " fp32. Default auto.",
    )
    gradient_checkpointing: Switch | None = Field(
        default=None,
        description="Recompute activations to save memory. auto is false where the estimate says"
        " that training without leaves 15% of resources.gpuMemory free, true on other GPUs, also"
        " where gpuMemory isn't stated, and false without a GPU. Default auto.",
    )
    logging_steps: int | None = Field(
        default=None, ge=1, le=1000000, description="Steps between two metric points. Default 10."
    )
    evaluation_steps: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Steps between two evaluations in training. Default: only at the end.",
    )
    seed: Seed | None = Field(
        default=None, description="Seed of initialisation, order and dropout. Default 42."
    )


class Data(Value):
    """Which part of the dataset trains."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.seed) || !has(self.fraction) || self.fraction < 1.0",
            message="seed chooses a share of the rows, and with fraction 1 all train: remove it",
            check=lambda data: data.seed is None or data.fraction != 1,
            field="seed",
        ),
    )

    fraction: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the training rows that is used, chosen by seed. Default 1.",
    )
    seed: Seed | None = Field(default=None, description="Seed of that choice. Default 42.")
    long_rows: LongRows | None = Field(
        default=None,
        description="Rows with more tokens than hyperparameters.maxLength: truncate cuts them at"
        " the end, drop leaves them out, refuse fails the run and tells how many there are."
        " status.result.rows counts them. Default truncate.",
    )


_TEMPLATES = (MODEL, *CHAT_TEMPLATES)


class TokenizerSettings(Value):
    """How chats become text, and what pads."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.chatTemplate) || self.chatTemplate.contains('{') ||"
            f" self.chatTemplate in [{', '.join(repr(name) for name in _TEMPLATES)}]",
            message=f"chatTemplate is one of {', '.join(_TEMPLATES)}, or the text of a Jinja"
            " template",
            check=lambda given: (
                given.chat_template is None
                or "{" in given.chat_template
                or given.chat_template in _TEMPLATES
            ),
            field="chatTemplate",
        ),
    )

    pad_token: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Token of the model's vocabulary that fills up short rows. Default: the"
        " tokenizer's own, else one that its family reserves, the unknown or the end token, as"
        " status.padToken of the Model says.",
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        max_length=16384,
        description="How chats become text: model (the tokenizer's own template), plain, chatml,"
        " gemma, mistral, or the text of a Jinja template, stored with the result. Default: model"
        " where it has one, else chatml, gemma, mistral or plain by its family.",
    )


class EvaluationSettings(Value):
    """The check on held-out rows after training."""

    max_rows: int | None = Field(
        default=None,
        ge=0,
        le=100000,
        description="Held-out rows that are generated for and compared, with objective sft; 0"
        " skips it. Default 128.",
    )
    max_loss_rows: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Held-out rows that loss and the objective's own metrics are means over: before"
        " and after training; of more the seed of the Dataset's splits chooses, as for an"
        " Evaluation. status.result.rows tells how many they were. Default 2000.",
    )
    max_new_tokens: int | None = Field(
        default=None,
        ge=1,
        le=16384,
        description="Tokens generated per row, here and by the registered version. Default 64.",
    )
    baseline: bool | None = Field(
        default=None,
        description="Measure the untrained model too, as metrics with prefix baseline, such as"
        " baselineEvalLoss. Objectives dpo and kto do it by nature. Default false.",
    )


class Checkpoint(Value):
    """Where interrupted attempts continue from."""

    every_steps: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="Optimizer steps between checkpoints. Default 100.",
    )
    every_minutes: int | None = Field(
        default=None,
        ge=1,
        le=7 * 24 * 60,
        description="A checkpoint also after so many minutes without one, for steps that take long."
        " Default: only steps count. Not with trainer.axolotl.",
    )
    keep: int | None = Field(
        default=None, ge=1, le=1000, description="Newest checkpoints kept. Default 2."
    )
    claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim for checkpoints. Default: the run's own scratch space,"
        " so a new attempt starts at step 0.",
    )


class Resources(Value):
    """What one worker gets; requests equal limits."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.processes) || !has(self.gpu) || self.gpu == 0"
            " || self.gpu == self.processes",
            message="each GPU has one process: remove processes, or set gpu to 0",
            check=lambda given: (
                given.processes is None or not given.gpu or given.gpu == given.processes
            ),
            field="processes",
        ),
    )

    cpu: Quantity | None = Field(
        default=None,
        description="CPUs, such as 2 or 500m. Default 1, or one for each process.",
    )
    memory: Quantity | None = Field(default=None, description="Memory, such as 8Gi. Default 4Gi.")
    gpu: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Whole GPUs; a process trains on each. Default 0.",
    )
    processes: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Processes of a worker that train on CPUs. Default 1; with GPUs one for each.",
    )
    gpu_memory: Quantity | None = Field(
        default=None,
        description="Memory of one GPU, such as 80Gi, which the job's estimate is compared with;"
        " it asks for nothing. Best stated once, in the target's resources. Default: not known.",
    )
    gpu_label: Labels | None = Field(
        default=None,
        description="Node labels of the GPU type, such as nvidia.com/gpu.product: NVIDIA-H100.",
    )


class EstimateSettings(Value):
    """What follows from the estimate before anything is submitted."""

    when_too_large: Literal["Ignore", "Warn", "Refuse"] | None = Field(
        default=None,
        description="When the estimated peak memory is above resources.gpuMemory, or on a CPU above"
        " resources.memory: Warn sets the condition MemoryFits to False, Refuse also submits"
        " nothing. Default Warn.",
    )
    tokens_per_second: float | None = Field(
        default=None,
        gt=0,
        le=1e9,
        description="Training speed of one such GPU, for status.estimate.gpuHours; take it from"
        " status.progress of a similar job. Default: not known.",
    )


class TrlTrainer(Value):
    """Hugging Face TRL."""

    arguments: TrainerArguments | None = Field(
        default=None,
        description="Further arguments of the objective's trl configuration class, such as"
        " adam_beta2. Typed hyperparameters have their own fields. See"
        " docs/trainer-arguments.md.",
    )


class Trainer(Value):
    """Which training code runs; a job's choice replaces a profile's."""

    rules: ClassVar[tuple[Rule, ...]] = (at_most_one("trl", "axolotl", "script"),)

    trl: TrlTrainer | None = Field(default=None, description="Hugging Face TRL, the default.")
    axolotl: AxolotlTrainer | None = Field(
        default=None,
        description="axolotl, with objective sft, in the target's axolotlImage.",
    )
    script: ScriptTrainer | None = Field(
        default=None,
        description="Python code of your own, with objective sft. It gets model, rows and settings"
        " from its environment.",
    )


class TrainingSettings(ObjectiveSettings):
    """All settings that a profile may give and a job may override."""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("trainer.script.configMapRef", "ConfigMap"),
        Reference("trainer.axolotl.configMapRef", "ConfigMap"),
    )

    method: Method | None = Field(default=None, description="How weights change.")
    data: Data | None = Field(default=None, description="Which part of the dataset trains.")
    hyperparameters: Hyperparameters | None = Field(
        default=None, description="Numbers of the optimisation."
    )
    tokenizer: TokenizerSettings | None = Field(
        default=None, description="How chats become text, and what pads."
    )
    trainer: Trainer | None = Field(default=None, description="Which training code runs.")
    evaluation: EvaluationSettings | None = Field(
        default=None, description="The check on held-out rows after training."
    )
    checkpoint: Checkpoint | None = Field(
        default=None, description="Where interrupted attempts continue from."
    )
    resources: Resources | None = Field(default=None, description="What one worker gets.")
    workers: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Pods that train together, each with its own resources. A step learns from"
        " perDeviceBatchSize x gradientAccumulationSteps x workers x processes rows. May be changed"
        " while suspended; training then starts over. Default 1.",
    )
    strategy: Strategy | None = Field(
        default=None,
        description="How several processes share the training: ddp has the whole model in each,"
        " fsdp2 shards weights, gradients and optimizer state among them. Default ddp.",
    )
    estimate: EstimateSettings | None = Field(
        default=None,
        description="What follows from the estimate in status; in a job it may be changed.",
    )
    progress_deadline_seconds: int | None = Field(
        default=None,
        ge=10,
        le=2**31 - 1,
        description="Seconds without a step of the training after which an attempt counts as hung:"
        " it ends, and another continues, as far as backoffLimit goes. Evaluations and checkpoints"
        " on the way count as steps; of own code, those that it reports. Default: no limit.",
    )
    backoff_limit: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Failed attempts after which the job fails; preemptions don't count."
        " Default 3.",
    )
    on_out_of_memory: OnOutOfMemory | None = Field(
        default=None,
        description="What follows an attempt that ran out of memory. Fail ends the job. Retry tries"
        " once more with the same settings, since a neighbour may have had the rest. HalveBatch has"
        " each next attempt train with half of perDeviceBatchSize and so much more"
        " gradientAccumulationSteps that optimizer steps learn from the same rows, down to 1; these"
        " attempts don't count against backoffLimit. Not with trainer.script. Default Retry.",
    )


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``over`` laid on ``base``; maps are merged, other values replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)  # pyright: ignore[reportUnknownArgumentType]
        else:
            merged[key] = value
    return merged

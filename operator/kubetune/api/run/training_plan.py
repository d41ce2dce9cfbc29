"""How a run trains: the settings in the run plan, all of them resolved."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from kubetune.api.schema.base import PlanValue
from kubetune.api.schema.rules import Rule, exactly_one
from kubetune.api.training.method import ComputeFormat, MethodType
from kubetune.api.training.objective_settings import WITH_SETTINGS, ObjectivePlans
from kubetune.api.training.objectives import Objective
from kubetune.api.training.settings import ContinueFrom, LongRows


class LoraPlan(PlanValue):
    """Every setting of the adapter."""

    rank: int
    alpha: int
    dropout: float
    target_modules: list[str]
    bias: Literal["none", "all", "lora_only"]
    use_rslora: bool
    use_dora: bool = False
    """This and the next are missing in plans of earlier versions."""
    modules_to_save: list[str] = Field(default_factory=list[str])


class QuantizationPlan(PlanValue):
    """How the frozen weights are stored; the last three go with 4 bits."""

    bits: Literal[4, 8]
    type: Literal["nf4", "fp4"] | None = None
    double_quantization: bool | None = None
    compute_dtype: ComputeFormat | None = None
    """None: the format of the computation; the device is known to the run alone."""


class HyperparametersPlan(PlanValue):
    """Every typed hyperparameter; exactly one of epochs and max_steps."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("epochs", "max_steps"),)

    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float
    per_device_batch_size: int
    gradient_accumulation_steps: int
    max_length: int
    packing: bool
    scheduler: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    gradient_checkpointing: bool | None = None
    """None: true on a GPU, else false; the device is known to the run alone."""
    logging_steps: int
    evaluation_steps: int | None = None
    seed: int


class EvaluationPlan(PlanValue):
    """The check on held-out rows."""

    max_rows: int = 0
    """0 where the objective generates nothing; so the next."""
    max_new_tokens: int = 0
    max_loss_rows: int | None = None
    """None: all, as in plans of earlier versions."""
    baseline: bool


class CheckpointPlan(PlanValue):
    """Where and how often checkpoints are written."""

    every_steps: int
    every_minutes: int | None = None
    """Also after so long without one."""
    keep: int
    directory: str
    """Absolute path in the container, this run's own."""


class TokenizerPlan(PlanValue):
    """What is changed at the model's tokenizer."""

    pad_token: str | None = None
    """None: what ``families.pad_token`` finds, since the inspection could not tell."""
    chat_template: str | None = None
    """Text of the template; None: the model's own."""


class ScriptPlan(PlanValue):
    """Training code of the user, run instead of trl's."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("text", "path"),)

    name: str
    """File name, for messages."""
    text: str | None = None
    path: str | None = None
    """Absolute path in the container."""
    root: str | None = None
    """Folder that the path must not leave."""
    args: list[str] = Field(default_factory=list[str])


class AxolotlPlan(PlanValue):
    """axolotl instead of trl, with what the user gives of its configuration."""

    config: dict[str, JsonValue]


class TrainingPlan(ObjectivePlans):
    """Everything that changes the result."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!(self.objective in {list(WITH_SETTINGS)}) || has(self[self.objective])",
            message="the settings of the objective are missing",
            check=lambda plan: (
                plan.objective not in WITH_SETTINGS or getattr(plan, plan.objective) is not None
            ),
        ),
    )

    objective: Objective
    method: MethodType
    lora: LoraPlan | None = None
    """With methods lora and qlora."""
    quantization: QuantizationPlan | None = None
    """With method qlora."""
    weights: Literal["bf16"] | None = None
    """With method full: the number format of the weights; None: fp32."""
    continue_from: ContinueFrom | None = None
    """Where the model is an adapter: whether its own weights train, or it is merged first."""
    hyperparameters: HyperparametersPlan
    tokenizer: TokenizerPlan | None = None
    """Missing in plans of earlier versions."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of trl's configuration class."""
    script: ScriptPlan | None = None
    axolotl: AxolotlPlan | None = None
    """Without one of the two trl trains."""
    data_fraction: float
    data_seed: int
    long_rows: LongRows = "truncate"
    evaluation: EvaluationPlan
    checkpoint: CheckpointPlan
    progress_deadline_seconds: int | None = None
    """Without a step for so long the run ends, to be tried again; None: it may wait for good."""

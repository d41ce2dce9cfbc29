"""The settings that only one objective has: as a manifest has them, and resolved for a run."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.schema.base import PlanValue, Value
from kubetune.api.schema.rules import Rule

DpoLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
KtoLoss = Literal["kto", "apo_zero_unpaired"]
SMOOTHED_LOSSES: frozenset[str] = frozenset({"robust", "exo_pair", "aot", "aot_unpaired"})
"""Losses of dpo that labelSmoothing acts on."""
Weight = Annotated[float, Field(ge=0, le=1000)]

_SMOOTHED = f"[{', '.join(repr(name) for name in sorted(SMOOTHED_LOSSES))}]"


class DpoSettings(Value):
    """Settings of direct preference optimisation, named as in trl."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.labelSmoothing) || self.labelSmoothing == 0.0 || !has(self.lossType) ||"
            f" self.lossType.exists(l, l in {_SMOOTHED})",
            message="labelSmoothing acts on losses robust, exo_pair, aot and aot_unpaired alone:"
            " remove it, or choose one of them",
            check=lambda dpo: (
                not dpo.label_smoothing
                or dpo.loss_type is None
                or not SMOOTHED_LOSSES.isdisjoint(dpo.loss_type)
            ),
            field="labelSmoothing",
        ),
    )

    beta: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="How strongly the model is held to the one it was. Default 0.1.",
    )
    loss_type: list[DpoLoss] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Losses, added up by their weights. Default sigmoid alone.",
    )
    loss_weights: list[Weight] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Weights of the losses, as many as lossType has. Default 1 each.",
    )
    label_smoothing: float | None = Field(
        default=None,
        ge=0,
        lt=0.5,
        description="Share of pairs that may be labelled the wrong way round, for losses robust,"
        " exo_pair, aot and aot_unpaired. Default 0.",
    )


class KtoSettings(Value):
    """Settings of Kahneman-Tversky optimisation, named as in trl."""

    beta: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="How strongly the model is held to the one it was. Default 0.1.",
    )
    loss_type: KtoLoss | None = Field(
        default=None, description="Loss: kto or apo_zero_unpaired. Default kto."
    )
    desirable_weight: Weight | None = Field(
        default=None, description="Weight of completions with label true. Default 1."
    )
    undesirable_weight: Weight | None = Field(
        default=None, description="Weight of completions with label false. Default 1."
    )


class RewardSettings(Value):
    """Settings of a reward model, named as in trl."""

    center_rewards_coefficient: float | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Weight of a term that keeps scores around 0, such as 0.01. Default: none.",
    )


class ObjectiveSettings(Value):
    """The settings of each objective, below its name; a job has those of its own alone."""

    dpo: DpoSettings | None = Field(default=None, description="Settings of objective dpo.")
    kto: KtoSettings | None = Field(default=None, description="Settings of objective kto.")
    reward: RewardSettings | None = Field(default=None, description="Settings of objective reward.")


class DpoPlan(PlanValue):
    """Every setting of objective dpo."""

    beta: float
    loss_type: list[DpoLoss]
    loss_weights: list[float] | None = None
    """None: 1 each."""
    label_smoothing: float


class KtoPlan(PlanValue):
    """Every setting of objective kto."""

    beta: float
    loss_type: KtoLoss
    desirable_weight: float
    undesirable_weight: float


class RewardPlan(PlanValue):
    """Every setting of objective reward."""

    center_rewards_coefficient: float | None = None


class ObjectivePlans(PlanValue):
    """The settings of the objective of a run, below its name."""

    dpo: DpoPlan | None = None
    kto: KtoPlan | None = None
    reward: RewardPlan | None = None


WITH_SETTINGS: tuple[str, ...] = tuple(ObjectiveSettings.model_fields)
"""Objectives that have settings of their own."""

"""Settings of a plan change what trl, peft and bitsandbytes are told; none ends in the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.training_plan import TrainingPlan
from kubetune.api.training.objectives import OBJECTIVES, TRAINING_LOSS
from kubetune.api.training.settings import merge
from kubetune_runner.model import adapters, quantization
from kubetune_runner.training import objectives, trainer
from kubetune_runner.training.objectives.base import PreferenceObjective

from tests.runners.conftest import PlanFactory

DPO = {"objective": "dpo", "dpo": {"beta": 0.1, "lossType": ["robust"], "labelSmoothing": 0.0}}
KTO = {
    "objective": "kto",
    "kto": {
        "beta": 0.1,
        "lossType": "kto",
        "desirableWeight": 1.0,
        "undesirableWeight": 1.0,
    },
}
REWARD: dict[str, Any] = {"objective": "reward", "reward": {}}
QLORA = {"method": "qlora", "quantization": {"bits": 4}}

# A setting of the plan, another value of it, and what else the plan says.
SETTINGS: list[tuple[str, Any, dict[str, Any]]] = [
    ("hyperparameters.maxSteps", 9, {}),
    ("hyperparameters.learningRate", 0.5, {}),
    ("hyperparameters.perDeviceBatchSize", 3, {}),
    ("hyperparameters.gradientAccumulationSteps", 3, {}),
    ("hyperparameters.maxLength", 64, {}),
    ("hyperparameters.packing", True, {}),
    ("hyperparameters.scheduler", "cosine", {}),
    ("hyperparameters.warmup", 0.5, {}),
    ("hyperparameters.weightDecay", 0.5, {}),
    ("hyperparameters.maxGradNorm", 0.5, {}),
    ("hyperparameters.precision", "bf16", {}),
    ("hyperparameters.gradientCheckpointing", True, {}),
    ("weights", "bf16", {"method": "full"}),
    ("hyperparameters.loggingSteps", 3, {}),
    ("hyperparameters.evaluationSteps", 3, {}),
    ("hyperparameters.seed", 7, {}),
    ("checkpoint.everySteps", 3, {}),
    ("checkpoint.keep", 5, {}),
    ("arguments", {"adam_beta2": 0.5}, {}),
    ("dpo.beta", 0.5, DPO),
    ("dpo.lossType", ["ipo"], DPO),
    ("dpo.lossWeights", [2.0], DPO),
    ("dpo.labelSmoothing", 0.1, DPO),
    ("kto.beta", 0.5, KTO),
    ("kto.lossType", "apo_zero_unpaired", KTO),
    ("kto.desirableWeight", 2.0, KTO),
    ("kto.undesirableWeight", 2.0, KTO),
    ("reward.centerRewardsCoefficient", 0.01, REWARD),
    ("lora.rank", 8, {}),
    ("lora.alpha", 4, {}),
    ("lora.dropout", 0.1, {}),
    ("lora.targetModules", ["q_proj"], {}),
    ("lora.bias", "all", {}),
    ("lora.useRslora", True, {}),
    ("lora.useDora", True, {}),
    ("lora.modulesToSave", ["embed_tokens"], {}),
    ("quantization.bits", 8, QLORA),
    ("quantization.type", "fp4", QLORA),
    ("quantization.doubleQuantization", False, QLORA),
    ("quantization.computeDtype", "bf16", QLORA),
]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def told(plan: TrainingPlan, model: Any, folder: Path) -> tuple[Any, ...]:
    """What the libraries are told."""
    objective = objectives.load(plan.objective)
    arguments = trainer.arguments(
        objective.configuration, objective.arguments(plan), plan, folder, evaluates=True
    )
    lora = adapters.lora_config(model, plan.lora) if plan.lora else None
    quantized = quantization.of_base(plan, trainer.compute_dtype(plan))
    return (
        arguments.to_dict(),
        lora.to_dict() if lora else None,
        quantized.to_dict() if quantized else None,
    )


@pytest.mark.parametrize(
    ("path", "value", "around"), SETTINGS, ids=[setting[0] for setting in SETTINGS]
)
def test_a_setting_reaches_the_library(
    make_plan: PlanFactory,
    model: Any,
    tmp_path: Path,
    path: str,
    value: Any,
    around: dict[str, Any],
) -> None:
    changed: Any = value
    for name in reversed(path.split(".")):
        changed = {name: changed}
    before = make_plan(training=around).training
    after = make_plan(training=merge(around, changed)).training
    assert told(after, model, tmp_path) != told(before, model, tmp_path)


def test_the_metrics_that_a_job_may_ask_for_are_those_that_it_measures() -> None:
    for name, facts in OBJECTIVES.items():
        assert facts.final_metrics[-1] == TRAINING_LOSS
        objective = objectives.load(name)
        if isinstance(objective, PreferenceObjective):
            measured = {"eval_loss", *(f"eval_{metric}" for metric in objective.metrics)}
            assert set(facts.logged) == measured

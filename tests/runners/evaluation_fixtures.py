"""Plans of evaluations over the rows of ``make_plan``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.training.settings import merge

if TYPE_CHECKING:
    from tests.runners.conftest import PlanFactory

EvaluationFactory = Callable[..., EvaluationRunPlan]


@pytest.fixture
def make_evaluation(make_plan: PlanFactory, tmp_path: Path) -> EvaluationFactory:
    """Builds an evaluation over the same rows as ``make_plan``; keywords are laid over it."""

    def build(
        rows: list[dict[str, Any]] | None = None,
        held_out: list[dict[str, Any]] | None = None,
        **over: Any,
    ) -> EvaluationRunPlan:
        training = make_plan(rows, held_out).to_json()
        document: dict[str, Any] = {
            "kind": "evaluate",
            "candidate": "tuned",
            "split": "evaluation",
            "generation": {"maxNewTokens": 8, "temperature": 0.0, "topP": 1.0, "batchSize": 3},
            "metrics": ["exactMatch", "loss"],
            "maxRows": 8,
            "seed": 42,
            "samples": 2,
            "precision": "auto",
            "digest": "sha256:1",
            **{name: training[name] for name in ("run", "model", "dataset", "tracking")},
        }
        return EvaluationRunPlan.model_validate(merge(document, over))

    return build


def adapter_of(base: Path) -> dict[str, Any]:
    return {
        "name": "tuned",
        "type": "adapter",
        "base": {"name": "tiny", "type": "base", "directory": str(base)},
    }


@pytest.fixture
def plain_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation in the tests' own process hides no package from the tests that follow."""
    monkeypatch.setattr("kubetune_runner.model.quantization.leave_out", lambda: None)


def make_adapter(base: Path, folder: Path, targets: list[str], seed: int = 1) -> Path:
    """Write an adapter that changes what the base says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=4, lora_alpha=64, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(model, config).save_pretrained(str(folder))
    return folder


def without_numbers(base: Path, folder: Path, value: float = float("nan")) -> Path:
    """Write the model with a layer whose weights are all ``value``."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.norm.weight.fill_(value)
    model.save_pretrained(folder)
    for path in base.glob("*token*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder

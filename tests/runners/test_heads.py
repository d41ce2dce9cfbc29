"""Losses are those of the model's own forward, whichever architecture it has: real trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.plan import RunPlan
from kubetune_runner.errors import RunError
from kubetune_runner.evaluate import candidate
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import make_trainer
from kubetune_runner.training.inputs import prepare

from tests.runners import architectures
from tests.runners.conftest import PlanFactory
from tests.runners.fitting import fitted

pytestmark = pytest.mark.training

STEPS = {"hyperparameters": {"maxSteps": 3}}
OTHERS = ("modernbert-decoder", "recurrent_gemma", "llama4_text")
"""Architectures of which trl's head knows too little."""


@pytest.fixture
def make_model_plan(make_plan: PlanFactory, tiny_model: Path, tmp_path: Path) -> Any:
    """Builds a plan for an architecture."""

    def build(kind: str, over: dict[str, Any] | None = None, **plan: Any) -> RunPlan:
        folder = architectures.make(kind, tiny_model, tmp_path / kind, **(over or {}))
        return make_plan(model={"directory": str(folder)}, **plan)

    return build


def begun(plan: RunPlan) -> tuple[Any, Any]:
    """Trainer and inputs before the first step."""
    inputs = prepare(plan)
    trainer, _ = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    return trainer, inputs


def plain_loss(model: Any, rows: Sequence[Any]) -> float:
    """Held-out loss from the logits of one row at a time."""
    import torch

    model.eval()
    total, tokens = 0.0, 0
    for row in rows:
        labels = torch.tensor([row.labels])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.input_ids]), use_cache=False).logits
        total += torch.nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2),
            labels[:, 1:],
            ignore_index=-100,
            reduction="sum",
        ).item()
        tokens += int((labels[:, 1:] != -100).sum())
    return total / tokens


@pytest.mark.parametrize("kind", architectures.KINDS)
def test_the_held_out_loss_is_the_models_own(make_model_plan: Any, kind: str) -> None:
    plan = make_model_plan(kind, training=STEPS)
    trainer, inputs = fitted(plan)
    assert trainer.held_out_loss() == pytest.approx(
        plain_loss(trainer.model, inputs.evaluation.rows), rel=1e-4
    )


@pytest.mark.parametrize("kind", architectures.KINDS)
def test_a_candidates_loss_is_the_models_own(make_model_plan: Any, kind: str) -> None:
    import torch
    from kubetune_runner.training import losses

    plan = make_model_plan(kind)
    found = candidate.find(plan.model)
    model = candidate.load(found, torch.float32)
    rows = prepare(plan).evaluation.rows
    batch = losses.padded(rows, found.tokenizer.pad_token_id, "cpu")
    total = sum(loss for loss, _ in losses.row_losses(model, batch))
    tokens = sum(count for _, count in losses.row_losses(model, batch))
    assert total / tokens == pytest.approx(plain_loss(model, rows), rel=1e-4)


@pytest.mark.parametrize("kind", architectures.KINDS)
def test_steps_follow_the_models_own_gradient(make_model_plan: Any, kind: str) -> None:
    import torch

    plan = make_model_plan(kind, training=STEPS)
    trainer, _ = begun(plan)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.eval()
    trainer.compute_loss(trainer.model, dict(batch)).backward()
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    labels = batch.pop("labels")
    logits = trainer.model(**batch, use_cache=False).logits[:, :-1].float()
    torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], ignore_index=-100
    ).backward()
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_a_model_that_sees_what_follows_is_refused(make_model_plan: Any, kind: str) -> None:
    """It would learn to copy the next token, and its losses would be next to nothing."""
    with pytest.raises(RunError, match="see what follows a token") as caught:
        begun(make_model_plan(kind, training=STEPS))
    assert caught.value.reason == "ModelNotCausal"
    # The same layers with a mask that hides what follows.
    begun(make_model_plan(kind, {"is_decoder": True}, training=STEPS))


def test_a_candidate_that_sees_what_follows_is_refused(make_model_plan: Any) -> None:
    import torch

    found = candidate.find(make_model_plan("bert").model)
    with pytest.raises(RunError, match="see what follows a token"):
        candidate.load(found, torch.float32)


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_preferences_are_scored_by_the_models_own_head(
    make_model_plan: Any, objective: str
) -> None:
    import torch

    answers = {"prompt": "Is it red?", "chosen": " Yes, it is.", "rejected": " No way."}
    rated = [{"prompt": "Is it red?", "completion": " Yes.", "label": True},
             {"prompt": "Is it blue?", "completion": " No way.", "label": False}]  # fmt: skip
    data = [answers, answers] if objective == "dpo" else rated
    settings = {
        "dpo": {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0},
        "kto": {
            "beta": 0.1,
            "lossType": "kto",
            "desirableWeight": 1.0,
            "undesirableWeight": 1.0,
        },
    }
    plan = make_model_plan(
        "modernbert-decoder",
        rows=data * 4,
        held_out=data,
        dataset={"format": "preference" if objective == "dpo" else "unpairedPreference"},
        training={"objective": objective, objective: settings[objective], **STEPS},
    )
    trainer, _ = begun(plan)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    trainer.model.eval()
    with torch.no_grad():
        scored = trainer.model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
        logits = trainer.model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    expected = logits.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(scored, expected, atol=1e-4)


@pytest.mark.parametrize("kind", architectures.KINDS)
def test_trls_head_stays_where_it_is_right(
    make_model_plan: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_model_plan(kind, training=STEPS)
    begun(plan)
    assert ("own is used" in caplog.text) == (kind in OTHERS)


def test_gradient_checkpointing_that_changes_losses_stays_off(
    make_model_plan: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An architecture whose layers do something else when they are computed again."""
    from transformers.models.llama.modeling_llama import LlamaModel

    forward = LlamaModel.forward

    def odd(self: Any, *args: Any, **options: Any) -> Any:
        output: Any = forward(self, *args, **options)
        if self.is_activation_checkpointing and self.training:
            output["last_hidden_state"] = output["last_hidden_state"] * 0.5
        return output

    hyperparameters = {"maxSteps": 3, "gradientCheckpointing": True}
    for changed, text in ((False, ""), (True, "with gradient checkpointing")):
        if changed:
            monkeypatch.setattr(LlamaModel, "forward", odd)
        # A GPU or not: it is asked for.
        plan = make_model_plan("llama", training={"hyperparameters": hyperparameters})
        caplog.clear()
        trainer, _ = begun(plan)
        assert trainer.args.gradient_checkpointing != changed
        assert text in caplog.text

"""Objective focal: imitate the answers, and learn most from tokens that are unlikely yet."""

from __future__ import annotations

from typing import Any

import torch
from kubetune.api.run.training_plan import TrainingPlan
from kubetune_runner.training.objectives.sft import Sft, SftRun


class FocalRun(SftRun):
    """SftRun with a loss in which sure tokens count little."""

    def __init__(self, *, gamma: float, **options: Any) -> None:
        super().__init__(**options)
        self._gamma = gamma

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """The mean over labelled tokens of (1 - p)^gamma times their loss."""
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1].flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(
            logits, inputs["labels"][:, 1:].flatten(), reduction="none"
        )
        labelled = (inputs["labels"][:, 1:].flatten() != -100).sum()
        return ((1 - torch.exp(-losses)) ** self._gamma * losses).sum() / labelled


class Focal(Sft):
    """Focal loss; rows are encoded and measured as for sft."""

    trainer = FocalRun

    def options(self, plan: TrainingPlan, model: Any, again: Any) -> dict[str, Any]:
        """The setting of objective focal."""
        assert plan.focal is not None, "the plan's rules ask for it"
        return {"gamma": plan.focal.gamma}


OBJECTIVE = Focal()

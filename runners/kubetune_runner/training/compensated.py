"""AdamW for weights of 16 bits, whose steps are mostly smaller than what such a weight can show.

A weight of bf16 has 8 bits: a step below a thousandth of it would be rounded away, each time. What
rounding leaves of a weight is kept beside it and added at the next step, so that the two together
have the bits of a sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class CompensatedAdamW(torch.optim.Optimizer):
    """AdamW with the moments in fp32 and, for each weight, what its rounding has left.

    The rest of matrices is of the weights' own format. That of vectors, such as the scales of
    norms, is in fp32: they are near 1 and few, and their steps are the smallest.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; gradients may be of any format."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            own = weight.dtype if weight.ndim > 1 else torch.float32
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(weight, dtype=torch.float32)
            state["exp_avg_sq"] = torch.zeros_like(weight, dtype=torch.float32)
            state["rest"] = torch.zeros_like(weight, dtype=own)
        state["step"] += 1
        assert weight.grad is not None
        gradient, (first, second) = weight.grad.float(), group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        corrected = math.sqrt(1 - second ** state["step"])
        whole = weight.float().add_(state["rest"])
        whole.mul_(1 - group["lr"] * group["weight_decay"])
        size = group["lr"] / (1 - first ** state["step"])
        whole.addcdiv_(mean, (square.sqrt() / corrected).add_(group["eps"]), value=-size)
        weight.copy_(whole)
        state["rest"].copy_(whole.sub_(weight))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it was saved: the base class turns all of it into the weights' format."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, weight in zip(numbers, weights, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, torch.Tensor):
                    self.state[weight][name] = value.to(weight.device, copy=True)

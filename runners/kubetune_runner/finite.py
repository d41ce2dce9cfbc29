"""Results that aren't numbers end a run once: another attempt would end alike.

A loss can be finite at the last step that is reported, and the weights not after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubetune_runner.errors import RunError

REASON = "LossNotFinite"
OTHER_MODEL = "the model itself is at fault: use precision fp32 or bf16, or another model"
PROBE_TOKENS = 32
TRAIN_AGAIN = "lower hyperparameters.learningRate, or use precision fp32"


def finite_number(value: Any) -> float | None:
    """A finite number, also one written as text; what isn't one says nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def check_metrics(metrics: Mapping[str, float], when: str, way_out: str = TRAIN_AGAIN) -> None:
    """Raise RunError LossNotFinite naming the metrics that aren't numbers.

    ``when`` ends "eval_loss is nan ...".
    """
    found = {name: value for name, value in metrics.items() if not math.isfinite(value)}
    if found:
        named = ", ".join(f"{name} is {value}" for name, value in sorted(found.items())[:3])
        raise RunError(REASON, f"{named} {when}: {way_out}")


def check_weights(
    model: Any,
    what: str,
    way_out: str = TRAIN_AGAIN,
    *,
    agree: Callable[[bool], bool] = bool,
    trained_only: bool = True,
) -> None:
    """Raise RunError LossNotFinite where a weight is no number.

    ``what`` begins "the weights ... aren't numbers". Of sharded weights each worker looks at its
    own; ``agree`` tells whether any of them found one.
    """
    import torch

    broken = ""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.dtype.is_floating_point or (
                trained_only and not parameter.requires_grad
            ):
                continue
            local: Any = getattr(parameter, "to_local", lambda given=parameter: given)()
            if not torch.isfinite(local).all():
                broken = name
                break
    if agree(bool(broken)):
        named = f", such as {broken}," if broken else ""
        raise RunError(REASON, f"{what}{named} aren't numbers: {way_out}")


def check_scores(
    model: Any,
    rows: Sequence[Sequence[int]],
    what: str,
    way_out: str = TRAIN_AGAIN,
    *,
    agree: Callable[[bool], bool] = bool,
) -> None:
    """Raise RunError LossNotFinite where what a model makes of rows of token ids is no number.

    Finite weights can be so large that nothing they give is. ``what`` begins "what ... gives ...".
    """
    import torch

    training = model.training
    model.eval()
    broken = False
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([list(row[:PROBE_TOKENS])], device=model.device)
            broken |= bool(torch.isnan(model(input_ids=ids, use_cache=False).logits).any())
    model.train(training)
    if agree(broken):
        raise RunError(REASON, f"what {what} gives isn't a number: {way_out}")

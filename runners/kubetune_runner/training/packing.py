"""Whether rows that share a sequence stay apart: told by the model itself, before it trains.

Packed rows come with positions that start again at each row. Most models make a mask of them, but
whether one does depends on its architecture, the attention's implementation and the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubetune_runner.errors import RunError
from kubetune_runner.text.encoding import EncodedRow

PROBE_TOKENS = 16
"""Tokens of a row that are looked at."""
TOLERANCE = 1e-6
"""Of the largest score: what a mask hides changes nothing at all, while an untrained or small model
shows little of what it sees."""


def check(model: Any, rows: Sequence[EncodedRow]) -> None:
    """Change a row and look whether the row packed behind it sees the change.

    Raises RunError PackingUnsupported.
    """
    import torch

    if len(rows) < 2:
        return
    first, second = (row.input_ids[:PROBE_TOKENS] for row in rows[:2])
    # The same tokens in another order are other tokens, unless all are equal.
    changed = first[::-1] if first[::-1] != first else [second[-1]] * len(first)
    positions = [*range(len(first)), *range(len(second))]

    def scores(before: list[int]) -> Any:
        # What is dropped by chance is the same each time.
        torch.manual_seed(0)
        output = model(
            input_ids=torch.tensor([[*before, *second]], device=model.device),
            position_ids=torch.tensor([positions], device=model.device),
            use_cache=False,
        )
        return output.logits[0, len(first) :].float()

    training = model.training
    # Weights of 4 bits would take another form in the other mode, for good.
    model.train()
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            one, other = scores(first), scores(changed)
    except TypeError:
        # There is no place for positions, so rows can't be told apart.
        apart = False
    else:
        apart = bool((one - other).abs().max() <= TOLERANCE * one.abs().max())
    finally:
        model.train(training)
    if not apart:
        raise RunError(
            "PackingUnsupported",
            f"hyperparameters.packing: in models of type {model.config.model_type} packed rows"
            " see each other, so answers would be learned from other rows' text: set packing to"
            " false",
        )

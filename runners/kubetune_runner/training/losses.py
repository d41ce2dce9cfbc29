"""Negative log-likelihood of labelled tokens, row by row: held-out loss in training and evaluation.

trl's head scores the labelled positions alone, in pieces, so that a large vocabulary doesn't
fill the memory with logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from kubetune_runner.text.encoding import IGNORED, EncodedRow


def row_losses(model: Any, inputs: dict[str, Any]) -> list[tuple[float, int]]:
    """Of each row of a batch: the sum over its labelled tokens, and how many they are.

    The model has trl's head, or its own in its place (``heads``).
    """
    with torch.no_grad():
        output = model(**inputs, use_cache=False, fused_lm_head=True)
    sums = -output.log_probs.double().sum(dim=1)
    return list(zip(sums.tolist(), output.label_mask.sum(dim=1).tolist(), strict=True))


def token_loss(
    model: Any,
    rows: Sequence[EncodedRow],
    size: int,
    batch: Callable[[list[EncodedRow]], dict[str, Any]],
    told: Callable[[int], object] = lambda _: None,
) -> float:
    """The mean over all labelled tokens of rows, ``size`` of them at a time as ``batch`` makes it.

    Whatever the batches are, the mean is the same. ``told`` is called with the number of rows that
    are done.
    """
    total, tokens = 0.0, 0
    for start in range(0, len(rows), size):
        for loss, labelled in row_losses(model, batch(list(rows[start : start + size]))):
            total += loss
            tokens += labelled
        told(min(start + size, len(rows)))
    return total / tokens


def padded(rows: Sequence[EncodedRow], pad_token_id: int, device: Any) -> dict[str, Any]:
    """Rows as one batch, filled up at the right."""
    width = max(len(row.input_ids) for row in rows)

    def filled(values: list[int], filler: int) -> list[int]:
        return values + [filler] * (width - len(values))

    columns = {
        "input_ids": [filled(row.input_ids, pad_token_id) for row in rows],
        "attention_mask": [filled([1] * len(row.input_ids), 0) for row in rows],
        "labels": [filled(row.labels, IGNORED) for row in rows],
    }
    return {name: torch.tensor(value, device=device) for name, value in columns.items()}

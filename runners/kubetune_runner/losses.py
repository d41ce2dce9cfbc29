"""Negative log-likelihood of labelled tokens, row by row: held-out loss in training and evaluation.

trl's head scores the labelled positions alone, in pieces, so that a large vocabulary doesn't
fill the memory with logits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl.trainer import utils as _trl_utils

from kubetune_runner.encoding import IGNORED, EncodedRow

log = logging.getLogger(__name__)

trl_utils: Any = _trl_utils


def row_losses(model: Any, inputs: dict[str, Any]) -> list[tuple[float, int]]:
    """Of each row of a batch: the sum over its labelled tokens, and how many they are.

    The model has trl's head: a trainer adds it, or ``add_head``.
    """
    if _has_adapted_head(model):
        return _from_logits(model, inputs)
    with torch.no_grad():
        output = model(**inputs, use_cache=False, fused_lm_head=True)
    sums = -output.log_probs.double().sum(dim=1)
    return list(zip(sums.tolist(), output.label_mask.sum(dim=1).tolist(), strict=True))


def token_loss(
    model: Any,
    rows: Sequence[EncodedRow],
    size: int,
    batch: Callable[[list[EncodedRow]], dict[str, Any]],
) -> float:
    """The mean over all labelled tokens of rows, ``size`` of them at a time as ``batch`` makes it.

    Whatever the batches are, the mean is the same.
    """
    total, tokens = 0.0, 0
    for start in range(0, len(rows), size):
        for loss, labelled in row_losses(model, batch(list(rows[start : start + size]))):
            total += loss
            tokens += labelled
    return total / tokens


def _has_adapted_head(model: Any) -> bool:
    """Whether an adapter changes the output layer, of which trl's head reads the weights alone."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return hasattr(base.get_output_embeddings(), "lora_A")


def _from_logits(model: Any, inputs: dict[str, Any]) -> list[tuple[float, int]]:
    texts = {name: value for name, value in inputs.items() if name != "labels"}
    labels = inputs["labels"][:, 1:]
    with torch.no_grad():
        logits = model(**texts, use_cache=False).logits[:, :-1]
    lost = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    labelled = (labels != IGNORED).sum(dim=1)
    return list(zip(lost.double().sum(dim=1).tolist(), labelled.tolist(), strict=True))


def add_head(model: Any) -> None:
    """Give a model trl's head; before an adapter is put on it."""
    if not torch.cuda.is_available():
        score_labels_only()
    trl_utils.add_fused_lm_head(model)


def score_labels_only() -> None:
    """Keep trl's head from scoring prompts and padding, as it does only on GPUs.

    It is a private name (trl 1.16): without it training is a third slower, and right.
    """
    if hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: True
    else:
        log.warning("this trl version has no fast head for CPUs; losses take longer")


def padded(rows: list[EncodedRow], pad_token_id: int, device: Any) -> dict[str, Any]:
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

"""trl's head, which scores labelled positions alone, and the model's own in its place.

trl's takes the model's last hidden states and multiplies them by the output layer's weights.
``shortcuts`` tells where that isn't what the model does.
"""

from __future__ import annotations

import functools
import logging
import types
from typing import Any

import torch
from trl.trainer import utils as _trl_utils

from kubetune_runner.text.encoding import IGNORED

log = logging.getLogger(__name__)

trl_utils: Any = _trl_utils


def add(model: Any) -> None:
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


def use_own(base: Any) -> None:
    """Have a model's own head answer where trl's is asked for."""
    forward = base.forward
    aux_loss = getattr(base.config.get_text_config(), "output_router_logits", False)

    # generate looks at the signature.
    @functools.wraps(type(base).forward)
    def own(
        self: Any,
        *args: Any,
        fused_lm_head: bool = False,
        labels: Any = None,
        shift_labels: Any = None,
        num_items_in_batch: Any = None,
        **options: Any,
    ) -> Any:
        if not fused_lm_head:
            given = {
                "labels": labels,
                "shift_labels": shift_labels,
                "num_items_in_batch": num_items_in_batch,
            }
            present = {name: value for name, value in given.items() if value is not None}
            return forward(*args, **options, **present)
        if aux_loss:
            options.setdefault("output_router_logits", True)
        output = forward(*args, **{**options, "use_cache": False})
        logits = output.logits if shift_labels is not None else output.logits[:, :-1]
        wanted = shift_labels if shift_labels is not None else labels[:, 1:]
        return scored(logits, wanted, num_items_in_batch, getattr(output, "aux_loss", None))

    base.forward = types.MethodType(own, base)


def scored(logits: Any, labels: Any, items: Any = None, aux_loss: Any = None) -> Any:
    """What trl's head returns, from the scores of all tokens."""
    labels = labels.to(logits.device)
    mask = labels != IGNORED
    chosen, wanted = logits[mask].float(), labels[mask]
    logs = chosen.log_softmax(dim=-1)

    def spread(values: Any) -> Any:
        # Connected to the model even when no label is left.
        whole = logits[..., 0].float() * 0
        return whole.masked_scatter(mask, values)

    log_probs = spread(logs.gather(-1, wanted.unsqueeze(-1)).squeeze(-1))
    with torch.no_grad():
        entropy = spread(-(logs.exp() * logs).sum(dim=-1))
        squares = spread((2 * logs).logsumexp(dim=-1))
        means = spread(chosen.mean(dim=-1))
        top = spread((chosen.argmax(dim=-1) == wanted).to(means.dtype)).bool()
    loss = -log_probs.sum() / (mask.sum().clamp(min=1) if items is None else items)
    return trl_utils.FusedCausalLMOutput(
        loss=loss,
        log_probs=log_probs,
        entropy=entropy,
        log_sum_sq_probs=squares,
        mean_logits=means,
        is_top1=top,
        label_mask=mask,
        aux_loss=aux_loss,
    )

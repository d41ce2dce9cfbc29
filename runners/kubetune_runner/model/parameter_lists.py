"""Saves walks over all modules of a model, which transformers makes several times a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.trainer_callback import TrainerCallback


class ParameterListCache(TrainerCallback):
    """While a model trains in one process, its weights are listed once and its mode is known.

    transformers sets the mode, clips and clears gradients at each step; with the modules of
    adapters that is a twentieth of the time of a small model. It begins when a checkpoint has been
    loaded, after which no weight is replaced by another.
    """

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """List and remember, where nothing shards the weights."""
        if torch.distributed.is_initialized():
            return
        # Modules may be in another mode than the model that has them.
        model.train()
        weights, set_mode = list(model.parameters()), model.train

        def parameters(recurse: bool = True) -> Iterator[torch.nn.Parameter]:
            return iter(weights) if recurse else type(model).parameters(model, recurse=False)

        def train(mode: bool = True) -> Any:
            return model if mode == model.training else set_mode(mode)

        model.parameters, model.train = parameters, train

    def on_train_end(self, *_: Any, model: Any, **__: Any) -> None:
        """Forget it."""
        for name in ("parameters", "train"):
            vars(model).pop(name, None)

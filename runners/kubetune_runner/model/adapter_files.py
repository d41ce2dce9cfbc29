"""Adapters whose files give back what was trained.

Some architectures keep their weights under other names in files than in memory. peft renames those
of an adapter as it reads them, as transformers does those of a model, but not as it writes them,
and what it then finds no place for it leaves out without an error.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetune_runner.data.findings import listing
from kubetune_runner.errors import RunError

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
ADAPTER = "default"
OUTER = "base_model.model."
"""What peft writes before the names of a model's own modules."""
MAX_NAMES = 8

Tensors = Mapping[str, "torch.Tensor"]

log = logging.getLogger(__name__)


def settle(model: Any) -> None:
    """Make sure, before the first step, that what will be saved of a model can be read again.

    Where a name in memory can't be, that of the base model's files is written. Raises RunError
    AdapterUnreadable.
    """
    from peft import get_peft_model_state_dict

    if not hasattr(model, "peft_config"):
        return
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    modules = _modules(unread(model, state))
    if not modules:
        return
    base = model.get_base_model()
    names = {name: _name_in_files(base, name) for name in state if _module(name) in modules}
    if still := unread(model, _renamed(state, names)):
        raise _unreadable(still)
    log.info("%d weights of the adapter are saved by the names of the base's files", len(names))
    model.save_pretrained = _saving_as(names, model.save_pretrained)


def unreadable_modules(model: Any, names: Sequence[str]) -> list[str]:
    """Of a model's modules those whose adapter peft couldn't read again, by no name it has."""
    weights = {f"{OUTER}{name}.lora_A.weight": name for name in names}
    lost = _astray(model, {weight: weight for weight in weights})
    lost = _astray(model, {weight: _name_in_files(model, weight) for weight in lost})
    return [weights[weight] for weight in lost]


def _astray(model: Any, names: Mapping[str, str]) -> list[str]:
    """Weights whose names in files peft makes something else of."""
    import torch
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import (
        convert_peft_adapter_state_dict_for_transformers,
    )

    if not names:
        return []
    stored = {name: torch.empty(1, 1) for name in names.values()}
    found = convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), stored, ADAPTER)
    return [weight for weight in names if weight not in found]


def check_saved(model: Any, folder: Path) -> None:
    """Compare what was saved with what is in memory. Raises RunError AdapterUnreadable."""
    if lost := unread(model, _load(folder / WEIGHTS)):
        raise _unreadable(lost)


def left_out(model: Any, folder: Path) -> list[str]:
    """The modules of an adapter that peft has read for which the folder had nothing.

    peft leaves them as they are, and says so in a warning.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        return []
    found = _placed(model, _load(weights))
    return _modules([name for name in _weights(model) if name not in found])


def unread(model: Any, state: Tensors) -> list[str]:
    """The weights of a model's adapter that peft doesn't get from what is stored."""
    found = _placed(model, state)
    return [
        name
        for name, weight in _weights(model).items()
        if name not in found or not _same(found[name], weight)
    ]


def _weights(model: Any) -> Tensors:
    """Those of the adapter, and biases that train with it."""
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.requires_grad or f".{ADAPTER}." in f"{name}."
    }


def _placed(model: Any, state: Tensors) -> Tensors:
    """What is stored, by the names of the weights that peft would give it to."""
    from peft import set_peft_model_state_dict

    found: dict[str, torch.Tensor] = {}

    def place(given: Tensors, **_: Any) -> None:
        found.update(given)

    model.load_state_dict = place
    try:
        set_peft_model_state_dict(model, dict(state), ADAPTER)
    finally:
        del model.load_state_dict
    return found


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    import torch

    # What is no number is refused elsewhere.
    pair = (one.float().cpu(), other.detach().float().cpu())
    return one.shape == other.shape and torch.allclose(*pair, rtol=0, atol=0, equal_nan=True)


def _load(weights: Path) -> Tensors:
    from safetensors.torch import load_file

    return load_file(weights)


def _name_in_files(base: Any, name: str) -> str:
    """What a weight of an adapter would be called in its base model's files."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    if ".lora_" not in name or not name.startswith(OUTER):
        return name
    renamed = name.removeprefix(OUTER)
    for step in reversed(get_model_conversion_mapping(base)):
        if isinstance(step, WeightRenaming):
            renamed = step.reverse_transform().rename_source_key(renamed)[0]
    return f"{OUTER}{renamed}"


def _renamed(state: Tensors, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    return {names.get(name, name): weight for name, weight in state.items()}


def _saving_as(names: Mapping[str, str], save: Callable[..., Any]) -> Callable[..., Any]:
    """``save_pretrained`` with other names; checkpoints are read by peft too."""

    @functools.wraps(save)
    def saved(folder: Any, *args: Any, **options: Any) -> Any:
        from safetensors.torch import save_file

        result = save(folder, *args, **options)
        weights = Path(folder) / WEIGHTS
        save_file(_renamed(_load(weights), names), weights, metadata={"format": "pt"})
        return result

    return saved


def _unreadable(lost: list[str]) -> RunError:
    modules = sorted({".".join(name.split(".")[-2:]) for name in _modules(lost)})
    return RunError(
        "AdapterUnreadable",
        f"peft can't read the adapter's weights of {listing(modules, MAX_NAMES)} again once they"
        " are saved: set method.lora.targetModules to modules without these, or method.type to"
        " full",
    )


def _modules(weights: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(_module, weights)))


def _module(weight: str) -> str:
    """The module that a weight of an adapter belongs to."""
    return weight.removeprefix(OUTER).partition(".lora_")[0].partition(".modules_to_save")[0]

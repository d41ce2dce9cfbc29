"""peft's configuration of an adapter, after a check that the modules it names are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubetune.api.run.training_plan import LoraPlan

from kubetune_runner.errors import RunError
from kubetune_runner.model import adapter_files

ALL_LINEAR = ["all-linear"]
FAMILY_DEFAULT = ["family-default"]


def lora_config(model: Any, lora: LoraPlan, *, scores: bool = False) -> Any:
    """The configuration of the adapter; of a model that ``scores`` peft keeps the last layer.

    Raises RunError TargetModulesUnknown, ModulesToSaveUnknown or ModulesNamedTwice, with the
    names there are.
    """
    from peft import LoraConfig

    targets = _targets(model, lora.target_modules)
    kept = lora.modules_to_save
    _check_kept(model, kept)
    if twice := sorted(set(kept) & set(lora.target_modules)):
        raise RunError(
            "ModulesNamedTwice",
            f"method.lora.modulesToSave and targetModules both name {', '.join(twice)}: a module"
            " gets an adapter or trains with all its weights; remove it from one of them",
        )
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=_left_out(model, kept) or None if targets == "all-linear" else None,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        modules_to_save=kept or None,
        # Where input and output layer are one, they stay so.
        ensure_weight_tying=_keeps_tied(model, kept),
        task_type="SEQ_CLS" if scores else "CAUSAL_LM",
    )


def _targets(model: Any, names: list[str]) -> str | list[str]:
    if names == ALL_LINEAR:
        return "all-linear"
    if names == FAMILY_DEFAULT:
        return _family_default(model)
    head = model.get_output_embeddings()
    adaptable, peculiar = _adaptable(), _peculiar(model)
    usable = [
        name
        for name, module in model.named_modules()
        if isinstance(module, adaptable) and module is not head and name not in peculiar
    ]
    unknown = [name for name in names if not any(map(_matches(name), usable))]
    if unknown:
        raise RunError(
            "TargetModulesUnknown",
            f"method.lora.targetModules: {', '.join(unknown)} can't get an adapter in this"
            f" model; it has {_last_parts(usable)}, or use all-linear",
        )
    return names


def _family_default(model: Any) -> list[str]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    family = model.config.model_type
    known: Any = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(family)
    if known is None:
        raise RunError(
            "TargetModulesUnknown",
            f"method.lora.targetModules: peft has no family-default for models of type {family}:"
            " use all-linear, or name modules",
        )
    return [known] if isinstance(known, str) else list(known)


def _check_kept(model: Any, names: list[str]) -> None:
    # Below the whole model, with weights.
    usable = [
        name
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters())
    ]
    unknown = [name for name in names if not any(map(_matches(name), usable))]
    if unknown:
        raise RunError(
            "ModulesToSaveUnknown",
            f"method.lora.modulesToSave: this model has no {', no '.join(unknown)}; it has"
            f" {_last_parts(usable)}",
        )


def _adaptable() -> tuple[type, ...]:
    """The modules that peft can give a low-rank adapter; quantized ones are linear too."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)


def _left_out(model: Any, kept: list[str]) -> list[str]:
    """Of all linear layers those that train with all their weights, that an adapter would break,
    that peft refuses, and whose adapter couldn't be read again.
    """
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [
        *kept,
        *_peculiar(model),
        *(name for name in linear if _is_refused(model, name)),
        *adapter_files.unreadable_modules(model, linear),
    ]


def _peculiar(model: Any) -> list[str]:
    """Linear layers that give something else than linear ones do, such as routers of experts.

    An adapter would wrap them and add its output to what may be several tensors, or chosen experts.
    """
    from torch import nn

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and type(module).forward is not nn.Linear.forward
        and not type(module).__module__.startswith("bitsandbytes")
        and not _is_plain(module)
    ]


def _is_plain(layer: Any) -> bool:
    """Whether a layer gives what a linear one gives, whatever its forward is."""
    import torch

    weight = layer.weight
    given = torch.ones(1, layer.in_features, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad():
            found: Any = layer(given)
            expected = torch.nn.functional.linear(given, weight, layer.bias)
    # A router may want another shape.
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return isinstance(found, torch.Tensor) and torch.allclose(found, expected, atol=1e-3)


def _is_refused(model: Any, name: str) -> bool:
    """Whether peft gives a layer no adapter, since kernels of its architecture would pass it by.

    peft says so of layers that it chooses itself, too.
    """
    from peft import LoraConfig
    from peft.tuners import tuners_utils

    check: Any = vars(tuners_utils)["_check_lora_target_modules_mamba"]
    try:
        check(LoraConfig(), model, name.rsplit(".", 1)[-1])
    except ValueError:
        return True
    return False


def _matches(target: str) -> Callable[[str], bool]:
    """As peft compares names: whole, or the last parts."""
    return lambda name: name == target or name.endswith(f".{target}")


def _last_parts(names: list[str]) -> str:
    parts = {name.rsplit(".", 1)[-1] for name in names}
    return ", ".join(sorted(part for part in parts if not part.isdigit()))


def _keeps_tied(model: Any, kept: list[str]) -> bool:
    """Whether the kept modules have an input or output layer that share their weights."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return (
        outputs is not None
        and inputs.weight is outputs.weight
        and any(
            module in (inputs, outputs) and any(_matches(item)(name) for item in kept)
            for name, module in model.named_modules()
        )
    )

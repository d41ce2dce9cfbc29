"""Whether an adapter's weights fit a base model, told from the shapes in both headers."""

from __future__ import annotations

import re

from kubetune_runner.data.findings import quote
from kubetune_runner.errors import RunError
from kubetune_runner.inspection.safetensors import Tensors

_LORA = re.compile(
    r"^base_model\.model\.(?P<module>.+)\.lora_(?P<side>A|B|embedding_A|embedding_B)"
    r"(?:\.[^.]+)?(?:\.weight)?$"
)


def check_fits(adapter: Tensors, base: Tensors, base_name: str) -> None:
    """Compare the outer size of each LoRA matrix with the weight that it changes.

    Raises RunError BaseModelMismatch with the tensor and both shapes. Modules that the base
    names otherwise are left to PEFT, as long as others match.
    """
    matched: set[str] = set()
    missing: list[str] = []
    for name, (_, shape) in adapter.items():
        match = _LORA.match(name)
        if not match or len(shape) != 2:
            continue
        weight = _weight(match["module"], base)
        if weight is None:
            missing.append(match["module"])
            continue
        matched.add(_pattern(match["module"]))
        # An adapter brings embeddings that its code has resized.
        module = f"base_model.model.{match['module']}"
        brought = (f"{module}.weight", f"{module}.base_layer.weight")
        base_shape = next((adapter[n][1] for n in brought if n in adapter), base[weight][1])
        outer = shape[1] if match["side"].endswith("A") else shape[0]
        # Linear keeps (out, in) and GPT-2's Conv1D (in, out): either place will do.
        if outer not in base_shape:
            raise RunError(
                "BaseModelMismatch",
                f"the adapter doesn't fit base model {quote(base_name)}: its tensor"
                f" {quote(name)} has shape {_show(shape)}, but {quote(weight)} of the base has"
                f" {_show(base_shape)}. Set spec.baseModelRef to the model it was trained on",
            )
    # lm_head may be tied to the embedding and so absent; a whole layer can't be.
    # transformers may keep weights under other names than those of the modules they go to.
    renamed = not matched and _sizes(adapter) <= {
        size for _, shape in base.values() for size in shape
    }
    for module in missing:
        if matched and _shared(module, base):
            continue
        if not renamed and (not matched or _pattern(module) in matched):
            raise RunError(
                "BaseModelMismatch",
                f"the adapter doesn't fit base model {quote(base_name)}: it changes"
                f" {quote(module)}, which the base doesn't have. Set spec.baseModelRef to the"
                " model it was trained on",
            )


def _shared(module: str, base: Tensors) -> bool:
    """Whether the module's layer is there, so that it has the weights of another layer's."""
    layer = re.match(r"(.*\.)?(\w+\.\d+\.)", module)
    return layer is not None and any(layer[2] in f".{name}" for name in base)


def _sizes(adapter: Tensors) -> set[int]:
    """What the LoRA matrices read and give."""
    return {
        shape[1] if match["side"].endswith("A") else shape[0]
        for name, (_, shape) in adapter.items()
        if (match := _LORA.match(name)) and len(shape) == 2
    }


def _weight(module: str, base: Tensors) -> str | None:
    """The base's weight of a module; checkpoints may leave out the outermost prefix."""
    parts = module.split(".")
    for start in range(min(len(parts), 3)):
        name = ".".join([*parts[start:], "weight"])
        if name in base:
            return name
    return None


def _pattern(module: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", module)


def _show(shape: list[int]) -> str:
    return "x".join(str(extent) for extent in shape)

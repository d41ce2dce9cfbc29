"""An adapter becomes part of its base model's weights, which no library needs to know of then."""

from __future__ import annotations

import gc
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubetune.api.run.plan import WORK_DIRECTORY, ModelPlan, in_container

from kubetune_runner.answering.embeddings import fit_embeddings
from kubetune_runner.errors import RunError
from kubetune_runner.model import adapter_files, loading

PROBE_TOKENS = 32
PROBE_ROWS = 2
TOLERANCE = 1e-3
"""Of the largest score, in fp32; merging only rounds."""
COARSE = 0.1
"""In 16 bits, which round all weights once more."""

log = logging.getLogger(__name__)


def scratch(name: str) -> Path:
    """An empty folder for a model that this attempt alone needs."""
    work = in_container(WORK_DIRECTORY)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work if work.is_dir() else None))


def with_adapter(model: Any, adapter: Path, *, dropout: float | None = None) -> Any:
    """The model with an adapter on it that trains."""
    from peft import PeftConfig, PeftModel

    fit_embeddings(model, adapter)
    config: Any = PeftConfig.from_pretrained(str(adapter))
    if dropout is not None:
        config.lora_dropout = dropout
    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), config=config, is_trainable=True)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _unfit(error) from error
    _check_whole(adapted, adapter)
    return adapted


def merge(
    base: ModelPlan,
    folder: Path,
    adapter: Path,
    into: Path,
    rows: Sequence[Sequence[int]] = (),
) -> Any:
    """Write the model in ``folder`` with the adapter merged in; returns its number format.

    That is the format of the base's own weights, unquantized. What was written is read again and
    compared with the adapter on its base, on ``rows`` of token ids. Raises RunError AdapterUnfit,
    MergeFails, MergeDiffers.
    """
    import torch
    from peft import PeftModel

    model = loading.load_model(base, folder, "auto")
    dtype, tied = model.dtype, _is_tied(model)
    fit_embeddings(model, adapter)
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(adapter))
        _check_whole(adapted, adapter)
        texts = _probes(adapted, rows)
        expected = _scores(adapted, texts)
    except (ValueError, RuntimeError, KeyError) as error:
        raise _unfit(error) from error
    _untie(adapted.get_base_model())
    try:
        merged: Any = adapted.merge_and_unload(safe_merge=True)
    # Some kinds of adapters do what no weights can.
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise _unmergeable(error) from error
    # Modules that trained whole come in the format they trained in.
    for parameter in merged.parameters():
        if parameter.dtype != dtype and parameter.dtype.is_floating_point:
            parameter.data = parameter.data.to(dtype)
    if tied:
        _tie_if_equal(merged)
    try:
        with torch.no_grad():
            loading.save_whole(merged, into)
    # Layers that share their weights, as some adapters have them, aren't written.
    except RuntimeError as error:
        raise _unmergeable(error) from error
    # Two of them may be more than the memory holds.
    del model, adapted, merged
    gc.collect()
    written = base.model_copy(update={"hub": None, "registry_uri": None, "directory": str(into)})
    _compare(expected, _scores(loading.load_model(written, into, "auto"), texts), dtype)
    log.info("merged the adapter into %s", base.name)
    return dtype


def _probes(model: Any, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Some of the rows, and tokens drawn by chance: an adapter may change few of them."""
    import torch

    vocabulary = model.get_input_embeddings().weight.shape[0]
    chance = torch.Generator().manual_seed(0)
    drawn: list[int] = torch.randint(vocabulary, (PROBE_TOKENS,), generator=chance).tolist()
    return [drawn, *(list(row[:PROBE_TOKENS]) for row in rows[:PROBE_ROWS] if row)]


def _scores(model: Any, texts: list[list[int]]) -> list[Any]:
    """The scores of all tokens at all places."""
    import torch

    model.eval()
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
            .logits[0]
            .float()
            .cpu()
            for ids in texts
        ]


def _compare(expected: list[Any], found: list[Any], dtype: Any) -> None:
    import torch

    tolerance = TOLERANCE if dtype == torch.float32 else COARSE
    apart = max(
        ((one - other).abs().max() / one.abs().max().clamp(min=1e-6)).item()
        for one, other in zip(expected, found, strict=True)
    )
    # Also where it is not a number.
    if not apart <= tolerance:
        raise RunError(
            "MergeDiffers",
            f"the merged model gives other answers than the adapter on its base (its scores differ"
            f" by {apart:.1%}): set output.merge to false, or name other method.lora.targetModules",
        )


def _is_tied(model: Any) -> bool:
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return outputs is not None and inputs.weight is outputs.weight


def _untie(model: Any) -> None:
    """Give the output layer weights of its own where it shares those of the input layer.

    An adapter changes one of the two, and merging it would change both.
    """
    from torch import nn

    inputs, outputs = (
        getattr(layer, "base_layer", layer)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    # Layers that trained whole are copies already, behind a module without weights of its own.
    shared = getattr(inputs, "weight", None) is getattr(outputs, "weight", False)
    if shared and "weight" in outputs._parameters:
        own = outputs.weight.detach().clone()
        outputs.weight = nn.Parameter(own, requires_grad=outputs.weight.requires_grad)


def _tie_if_equal(model: Any) -> None:
    """Share the weights again where the adapter left them alone; else say that they aren't."""
    import torch

    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    equal = inputs.shape == outputs.shape and torch.equal(inputs, outputs)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = equal
    if equal:
        model.tie_weights()


def _check_whole(adapted: Any, adapter: Path) -> None:
    """Refuse an adapter of which a part alone was read."""
    if missing := adapter_files.left_out(adapted, adapter):
        raise _unfit(ValueError(f"it has no weights that peft can read for {missing[0]}"))


def _unfit(error: Exception) -> RunError:
    return RunError(
        "AdapterUnfit",
        f"the adapter doesn't fit its base model: {' '.join(str(error).split())[:500]}: name the"
        " model that it was trained on in spec.baseModelRef of its Model",
    )


def _unmergeable(error: Exception) -> RunError:
    return RunError(
        "MergeFails",
        f"the adapter can't become part of its base model: {' '.join(str(error).split())[:300]}:"
        " set output.merge to false, or train an adapter of another kind",
    )

"""Whether a model has an embedding for each token, and as many as an adapter brings."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def fit_embeddings(model: Any, adapter: Path) -> None:
    """Give the model as many embeddings as an adapter brings, whose code has resized them.

    peft keeps such embeddings next to the adapter, and loads them into layers of their size only.
    """
    weights = adapter / "adapter_model.safetensors"
    embeddings = model.get_input_embeddings()
    own = next((name for name, module in model.named_modules() if module is embeddings), None)
    if own is None or not weights.is_file():
        return
    from safetensors import safe_open

    # Some embeddings have a norm within.
    within = r"(\.(base_layer|modules_to_save|original_module|default))*"
    kept = re.compile(rf"(^|\.){re.escape(own)}{within}\.weight$")
    with safe_open(str(weights), framework="pt") as file:
        names: list[str] = file.keys()
        sizes = {file.get_slice(name).get_shape()[0] for name in names if kept.search(name)}
    for size in sizes - {embeddings.weight.shape[0]}:
        log.info("the adapter brings %d embeddings, the base has others", size)
        model.resize_token_embeddings(size, mean_resizing=False)


def unembedded(model: Any, tokenizer: Any, rows: Iterable[Sequence[int]]) -> str | None:
    """In words, a token of rows that the model has no embedding for; torch would only fail."""
    size = model.get_input_embeddings().weight.shape[0]
    largest = max((max(ids, default=0) for ids in rows), default=0)
    if largest < size:
        return None
    name = tokenizer.convert_ids_to_tokens(largest)
    return (
        f"the token {name!r}, number {largest:,}, but the model has {size:,} embeddings, numbered"
        " from 0"
    )

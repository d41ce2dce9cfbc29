"""Sizes of a model that say how much memory its training takes."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kubetune.api.kinds.inspection import MAX_MATRICES

from kubetune_runner.inspection.safetensors import Tensors

LAYER_NAMES = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEAD_NAMES = ("num_attention_heads", "n_head", "num_heads", "n_heads")
INTERMEDIATE_NAMES = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "d_ff")
EXPERT_NAMES = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
HEADS_OF_OUTPUT = ("lm_head", "embed_out")


def first_number(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of the names that holds a positive number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def shape_facts(config: dict[str, Any], weights: Tensors | None) -> dict[str, Any]:
    """Fields of ModelInspection, from the configuration and the weights' headers."""
    heads = first_number(config, HEAD_NAMES)
    width = first_number(config, ("hidden_size", "n_embd", "d_model", "dim"))
    return {
        "layers": first_number(config, LAYER_NAMES),
        "attentionHeads": heads,
        "keyValueHeads": first_number(config, ("num_key_value_heads", "num_kv_heads")) or heads,
        "headSize": first_number(config, ("head_dim",))
        or (width // heads if width and heads else None),
        "intermediateSize": first_number(config, INTERMEDIATE_NAMES),
        "experts": first_number(config, EXPERT_NAMES),
        "tiedEmbeddings": _tied(config, weights),
        "matrices": _matrices(weights),
    }


def _tied(config: dict[str, Any], weights: Tensors | None) -> bool | None:
    stated = config.get("tie_word_embeddings")
    if isinstance(stated, bool):
        return stated
    if weights is None:
        return None
    return not any(
        name.split(".")[-2:-1] in ([head] for head in HEADS_OF_OUTPUT) for name in weights
    )


def _matrices(weights: Tensors | None) -> list[dict[str, Any]] | None:
    counts: Counter[tuple[str, int, int]] = Counter()
    for name, (_, shape) in (weights or {}).items():
        parts = name.split(".")
        if len(shape) == 2 and len(parts) > 1 and parts[-1] == "weight":
            counts[parts[-2][:64], shape[0], shape[1]] += 1
    if not counts or len(counts) > MAX_MATRICES:
        return None
    return [
        {"name": name, "count": count, "rows": rows, "columns": columns}
        for (name, rows, columns), count in counts.items()
    ]

"""Tiny untrained models of architectures that do something of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}
"""Weights large enough for scores that differ."""
KINDS: Mapping[str, Mapping[str, Any]] = {
    # A layer and a norm stand before the output layer.
    "modernbert-decoder": {"global_attn_every_n_layers": 1, "tie_word_embeddings": False},
    "gemma2": {"final_logit_softcapping": 5.0},
    # Its cap has another name than that of other models.
    "recurrent_gemma": {"logits_soft_cap": 5.0, "lru_width": 32, "attention_window_size": 64},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "phi": {},
    # Its experts are chosen by a linear layer that gives two tensors.
    "llama4_text": {
        "num_local_experts": 2,
        "interleave_moe_layer_step": 1,
        "intermediate_size_mlp": 64,
    },
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 256},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "llama": {},
}


def make(kind: str, tokenizer_of: Path, folder: Path, **over: Any) -> Path:
    """Save a model of a kind with the tokenizer of another one; equal calls give equal models."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_of)
    special = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = AutoConfig.for_model(kind, **{**SIZES, **special, **KINDS.get(kind, {}), **over})
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""Any architecture's configuration, made tiny: its own fields, in small numbers.

The names of sizes are much the same everywhere, so one table of patterns serves most. What needs
numbers of its own stands in ``OWN``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

WIDTH, HEADS, HEAD, INNER = 32, 4, 8, 64
POSITIONS = 256
MOST_LAYERS = 4
SPREAD = 0.2
"""Of the weights: large enough for scores that differ."""
PATTERNS: tuple[tuple[str, int], ...] = (
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length", POSITIONS),
    (r"model_max_length|max_(source|target)_positions|max_sequence_length", POSITIONS),
    (r"original_max_position_embeddings", POSITIONS),
    (r"num_global_key_value_heads|linear_num_(key|value)_heads|index_n_heads", 2),
    # Twice as wide within as without.
    (r"mamba_n_heads|mamba_num_heads", 2 * HEADS),
    (r"n_mamba_heads", 2),
    (r".*(attention_|_n_|num_)heads|n_heads?|attention_heads", HEADS),
    (r"qk_head_dim", 2 * HEAD),
    (r".*head_dim|kv_channels|d_head|.*_head_size|dim_head|mamba_d_head", HEAD),
    (r"mamba_headdim", WIDTH),
    (r"rotary_dim", HEAD // 2),
    (r"num_experts_per_tok(en)?|moe_k|top_k_experts|moe_topk|moe_router_topk|top_k", 2),
    (r"num_local_experts|num_experts|n_routed_experts|moe_num_experts|zero_expert_num", 4),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_groups|o_groups", 1),
    (r"q_lora_rank|kv_lora_rank|.*_rank|mamba_dt_rank|hc_lowrank", HEAD),
    (r"(hidden|embedding|input_embedding|output_embedding)_size|d_model|n_embd", WIDTH),
    (r"embed_dim|emb_dim|.*_embed_dim|embedding_dim|word_embed_proj_dim|lru_width", WIDTH),
    (
        r"dim_model_base|router_hidden_size|adapter_(in|out)_dim|adapter_(in|out)put_size|encoder_cross_output_size",
        WIDTH,
    ),
    (r".*intermediate_size(_mlp)?|(.*_)?ffn_dim|n_inner|d_ff|d_inner|dff|dim_ff", INNER),
    (r"hidden_size_global", 2 * WIDTH),
    (r".*ffn_hidden_size|feed_forward_size|prompt_mid_dim|attention_hidden_size", INNER),
    (r"mamba_d_ssm", INNER),
    (r"(num_|n_)?(hidden_|encoder_|decoder_)?layers?|num_blocks", 2),
)
KEY_VALUES = ("num_key_value_heads", "num_kv_heads", "num_query_groups", "swa_num_key_value_heads")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
KINDS = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_layers")
"""Lists with a word for each layer."""
TYPELESS = ("type_vocab_size", "task_type_vocab_size")

Fields = dict[str, Any]

OWN: Mapping[str, Fields] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt_global_transformer": {"hidden_size": 64, "head_dim": 16},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "cohere_compass_text": {
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": 10000.0}
            for name in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
             "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    # As wide as the parts of a sliding layer together.
    "dots3_note_text": {"head_dim": 24},
    "dory": {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1,
             "num_hidden_layers": 3, "layer_types": ["sliding_attention", "full_attention",
                                                     "sliding_attention"]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "granitemoehybrid": {"layers_block_type": ["mamba", "attention"], "num_hidden_layers": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hrm_text": {"num_layers_per_stack": 2, "num_hidden_layers": 20},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
                       "indexer_budget": 64, "indexer_compress_ratio": 4},
    "recurrent_gemma": {"num_hidden_layers": 3},
    # It has no place for others than the product of these.
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [16, 16],
                 "attn_layers": ["local", "local"], "num_hidden_layers": 2},
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "chunk_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_head_dim": 16, "num_hidden_layers": 5,
              "layers_block_type": ["linear_attention", "linear_attention", "hybrid",
                                    "linear_attention", "hybrid"]},
    "zamba2": {"attention_head_dim": 16, "num_hidden_layers": 2, "hybrid_layer_ids": [1],
               "layers_block_type": ["linear_attention", "hybrid"]},
}  # fmt: skip

IMPOSSIBLE: Mapping[str, str] = {
    "gemma3n": "its tower for pictures comes from the package timm, which is not installed",
    "gemma4_assistant": "it drafts tokens for another model and has no input of its own",
    "gemma4_unified_assistant": "it drafts tokens for another model and has no input of its own",
    "musicgen": "its decoder of sounds can't be made from the configuration of the whole",
    "musicgen_melody": "its decoder of sounds can't be made from the configuration of the whole",
}
"""What can't be made tiny by itself."""


def fields_of(kind: str, vocabulary: int, special: Mapping[str, int]) -> Fields:
    """A tiny configuration of an architecture; ``special`` are the numbers of its tokens."""
    from transformers import CONFIG_MAPPING

    return shrunk(CONFIG_MAPPING[kind]().to_dict(), vocabulary, special)


def number(name: str, value: int, vocabulary: int) -> int:
    """A field's value in a tiny configuration."""
    if re.fullmatch(r".*vocab_size(_per_layer_input)?", name) and name not in TYPELESS:
        return vocabulary
    for pattern, size in PATTERNS:
        if re.fullmatch(pattern, name):
            return size
    return value


def shrunk(given: Mapping[str, Any], vocabulary: int, special: Mapping[str, int]) -> Fields:
    """The fields of a configuration, and those of the configurations in it."""
    fields = {**given}
    places = layers_of(fields)
    count = _layers(fields)
    small: Fields = {}
    for name, value in fields.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = shrunk(value, vocabulary, special)
        elif name.endswith(("token_id", "token_index")):
            small[name] = special.get(name, special["pad_token_id"]) if value is not None else None
        elif isinstance(value, int) and not isinstance(value, bool) and value > 1:
            small[name] = number(name, value, vocabulary)
        elif isinstance(value, list) and count and len(value) == count:
            small[name] = [
                one
                if isinstance(one, str | bool) or one is None
                else number(_one(name), one, vocabulary)
                for one in (value[at] for at in places)
            ]
        elif name == "per_layer_config":
            layers = cast("dict[Any, Any]", value or {})
            # Keys may be "05".
            known = {int(at): one for at, one in layers.items()}
            chosen = [known.get(at) for at in places]
            small[name] = {
                str(at): _others(one, vocabulary) for at, one in enumerate(chosen) if one
            } or None
        elif isinstance(value, float) and ("drop" in name or "jitter" in name):
            small[name] = 0.0
        elif name == "initializer_range":
            small[name] = SPREAD
        else:
            small[name] = value
    heads = next(
        (fields[name] for name in ("num_attention_heads", "num_heads") if fields.get(name)), 0
    )
    for name in KEY_VALUES:
        if isinstance(fields.get(name), int):
            small[name] = HEADS if fields[name] == heads else min(2, fields[name])
    for name in LAYERS:
        if name in small and any(isinstance(small.get(one), list) for one in KINDS):
            small[name] = len(places)
    small |= {name: value for name, value in special.items() if name in small}
    return {**small, **OWN.get(str(given.get("model_type")), {})}


def _others(layer: Mapping[str, int], vocabulary: int) -> Fields:
    """Sizes of a layer that has others than most; equal ones would not be saved with it."""
    heads = layer.get("num_attention_heads")
    return {
        name: 2
        * (HEADS if name in KEY_VALUES and value == heads else number(name, value, vocabulary))
        for name, value in layer.items()
    }


def layers_of(fields: Mapping[str, Any]) -> list[int]:
    """Layers of which each is another kind, at least two."""
    count = _layers(fields)
    lists = [value for name in KINDS if isinstance(value := fields.get(name), list) and value]
    if not count or not lists:
        return [0, 1]
    first: dict[Any, int] = {}
    for at in range(count):
        first.setdefault(tuple(one[at] for one in lists if at < len(one)), at)
    places = sorted(first.values())[:MOST_LAYERS]
    return places if len(places) > 1 else [0, 1]


def _layers(fields: Mapping[str, Any]) -> int:
    return next((fields[name] for name in LAYERS if isinstance(fields.get(name), int)), 0)


def _one(name: str) -> str:
    """The name that one value of a list by layer would have."""
    return name.removesuffix("_per_layer").removesuffix("_list")

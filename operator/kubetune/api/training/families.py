"""What differs by model family: the one table of defaults below profile and job.

A family is known by transformers' model type, which the inspection of a Model finds. What doesn't
differ stands in kubetune.decide.settings.effective, learning rates by objective and method in
kubetune.api.training.objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kubetune.api.training.chat_templates import ChatTemplateName

PadTokenFrom = Literal["tokenizer", "reserved", "unknown", "end"]

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Family:
    """Defaults of the models of some types."""

    model_types: tuple[str, ...]
    pad_tokens: tuple[str, ...] = ()
    """Tokens that can pad, since the family reserves them or never ends an answer with them."""
    chat_template: ChatTemplateName = "plain"
    """For chats with a model whose tokenizer has no template."""
    target_modules: tuple[str, ...] = ()
    """Modules that get an adapter; none: all linear ones."""


FAMILIES: tuple[Family, ...] = (
    Family(
        ("llama", "llama4_text"),
        ("<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<pad>"),
    ),
    Family(
        ("qwen2", "qwen3", "qwen3_5_text"),
        ("<|endoftext|>", "<|vision_pad|>"),
        chat_template="chatml",
    ),
    Family(
        ("qwen2_moe", "qwen3_moe"),
        ("<|endoftext|>", "<|vision_pad|>"),
        chat_template="chatml",
        # Adapters on each of the experts would be most of the weights, and the router is better
        # left as it is.
        target_modules=_ATTENTION,
    ),
    Family(
        ("gemma", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text"),
        ("<pad>",),
        chat_template="gemma",
    ),
    Family(("mistral", "ministral"), ("[PAD]", "<pad>", "<unk>"), chat_template="mistral"),
    Family(
        ("mixtral",),
        ("[PAD]", "<pad>", "<unk>"),
        chat_template="mistral",
        target_modules=_ATTENTION,
    ),
    Family(("phi", "phi3"), ("<|endoftext|>", "<|dummy_0|>", "<unk>")),
    # One special token, which ends a text and pads too.
    Family(("gpt2", "gpt_neo", "gpt_neox"), ("<|padding|>",)),
    Family(("bloom",), ("<pad>",)),
)

RESERVED = ("<pad>", "<|pad|>", "[PAD]", "<PAD>", "<|padding|>")
"""Tokens that are there to pad, in tokenizers of any family."""

_NO_FAMILY = Family(())


def family_of(model_type: str | None) -> Family:
    """The family of a model type; one without any defaults of its own for an unknown type."""
    return next((row for row in FAMILIES if model_type in row.model_types), _NO_FAMILY)


def family_settings(model_type: str | None) -> dict[str, Any]:
    """The family's row as settings of a job."""
    family = family_of(model_type)
    settings: dict[str, Any] = {"tokenizer": {"chatTemplate": family.chat_template}}
    if family.target_modules:
        settings["method"] = {"lora": {"targetModules": list(family.target_modules)}}
    return settings


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer says of itself."""

    pad: str | None = None
    unknown: str | None = None
    end: str | None = None
    has: Callable[[str], bool] = field(default=lambda token: False)
    """Whether the vocabulary has a token."""


def pad_token(model_type: str | None, tokens: SpecialTokens) -> tuple[str, PadTokenFrom] | None:
    """The token that pads, and what it is; None where the tokenizer has nothing for it.

    Padding is masked by position and not by token, so the end token is learned even where it
    pads; another one is taken first, since other tools mask by token.
    """
    if tokens.pad:
        return tokens.pad, "tokenizer"
    for token in (*family_of(model_type).pad_tokens, *RESERVED):
        if token not in (tokens.end, tokens.unknown) and tokens.has(token):
            return token, "reserved"
    if tokens.unknown:
        return tokens.unknown, "unknown"
    return (tokens.end, "end") if tokens.end else None


def special_tokens(fields: Mapping[str, Any], has: Callable[[str], bool]) -> SpecialTokens:
    """From pad_token, unk_token and eos_token as tokenizer_config.json has them."""

    def text(name: str) -> str | None:
        value = fields.get(name)
        return value.get("content") if isinstance(value, dict) else value

    return SpecialTokens(text("pad_token"), text("unk_token"), text("eos_token"), has)

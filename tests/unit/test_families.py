"""The token that pads, and what is known of model families."""

from __future__ import annotations

import pytest
from kubetune.api.training.families import FAMILIES, SpecialTokens, pad_token


@pytest.mark.parametrize(
    ("model_type", "tokens", "vocabulary", "expected"),
    [
        ("llama", SpecialTokens("<own>", "<unk>", "</s>"), ["<pad>"], ("<own>", "tokenizer")),
        (
            "llama",
            SpecialTokens(end="<|end_of_text|>"),
            ["<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"],
            ("<|finetune_right_pad_id|>", "reserved"),
        ),
        (
            "qwen2",
            SpecialTokens(end="<|im_end|>"),
            ["<|endoftext|>"],
            ("<|endoftext|>", "reserved"),
        ),
        (
            "qwen2",
            SpecialTokens(end="<|endoftext|>"),
            ["<|endoftext|>", "<|vision_pad|>"],
            ("<|vision_pad|>", "reserved"),
        ),
        ("mistral", SpecialTokens(None, "<unk>", "</s>"), ["<unk>", "</s>"], ("<unk>", "unknown")),
        ("gpt2", SpecialTokens(end="<|endoftext|>"), ["<|endoftext|>"], ("<|endoftext|>", "end")),
        ("newest", SpecialTokens(end="<e>"), ["[PAD]"], ("[PAD]", "reserved")),
        (None, SpecialTokens(), [], None),
    ],
)
def test_the_token_that_pads(
    model_type: str | None,
    tokens: SpecialTokens,
    vocabulary: list[str],
    expected: tuple[str, str] | None,
) -> None:
    known = SpecialTokens(tokens.pad, tokens.unknown, tokens.end, vocabulary.__contains__)
    assert pad_token(model_type, known) == expected


def test_a_model_type_belongs_to_one_family() -> None:
    types = [name for family in FAMILIES for name in family.model_types]
    assert len(set(types)) == len(types)

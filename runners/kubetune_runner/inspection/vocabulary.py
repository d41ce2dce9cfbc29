"""Whether the tokens that a tokenizer puts into every text have a row in the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from kubetune_runner.errors import RunError
from kubetune_runner.inspection.safetensors import Tensors

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
_EMBEDDINGS = (
    "embed_tokens.weight",
    "embed_in.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embeddings.weight",
)
"""How the input embeddings are called in the families that transformers has."""


def check(
    place: str,
    special: Mapping[str, Any],
    numbers: Mapping[str, int],
    template: str,
    size: int | None,
    weights: Tensors | None,
) -> None:
    """Refuse a model whose tokenizer has tokens beyond its embeddings that texts will have.

    ``special`` are the tokenizer's fields, ``numbers`` those of added tokens. Tokens that stand
    neither for a role nor in the chat template are accepted: some models have one that only their
    larger siblings, which see pictures, have a row for.

    Raises RunError TokenBeyondVocabulary.
    """
    rows = embedding_rows(weights) or size
    if rows is None:
        return
    used = {text: role for role in reversed(ROLES) if (text := _text(special.get(role)))}
    used |= {text: "chat template" for text in numbers if text in template and text not in used}
    for text, role in used.items():
        if numbers.get(text, 0) >= rows:
            raise RunError(
                "TokenBeyondVocabulary",
                f"{place}: its tokenizer gives {text!r} ({role}) the number {numbers[text]:,}, but"
                f" the embeddings have {rows:,} rows, numbered from 0: resize them with"
                " `model.resize_token_embeddings(len(tokenizer))` and save both, or take another"
                f" {role}",
            )


def embedding_rows(weights: Tensors | None) -> int | None:
    """Rows of the input embeddings, as far as the files tell."""
    found = [
        shape[0]
        for name, (_, shape) in (weights or {}).items()
        if len(shape) == 2 and name.endswith(_EMBEDDINGS) and "position" not in name
    ]
    return max(found, default=None)


def token_numbers(decoder: Any, added: Any) -> dict[str, int]:
    """Added tokens and their numbers, as tokenizer_config.json or tokenizer.json has them."""
    if isinstance(decoder, dict) and decoder:
        items = cast("dict[str, Any]", decoder).items()
        return {
            str(token["content"]): int(number)
            for number, token in items
            if isinstance(token, dict) and "content" in token and str(number).isdigit()
        }
    return {
        str(token["content"]): token["id"]
        for token in cast("list[Any]", added or [])
        if isinstance(token, dict) and isinstance(token.get("id"), int) and "content" in token
    }


def _text(value: Any) -> str | None:
    content = cast("dict[str, Any]", value).get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None

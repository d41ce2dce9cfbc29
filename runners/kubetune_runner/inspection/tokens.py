"""A tokenizer as an inspection reads it, and which texts are one to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class KnownTokenizer:
    """A fast tokenizer, and what the files beside it say."""

    tokenizer: Tokenizer
    context: int | None = None
    """Tokens that its model reads."""
    end: str | None = None
    """The token that ends a text."""

    def alike(self, texts: list[str], *, ended: bool) -> bool:
        """Whether texts are the same tokens; if ``ended``, training ends each with the end token,
        which a text may have already.
        """
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        found = [self._open(list(each.ids)) if ended else each.ids for each in encodings]
        return all(ids == found[0] for ids in found)

    def is_nothing(self, text: str) -> bool:
        """Whether a text has no token that follows another, which is what a model learns."""
        ids = list(self.tokenizer.encode(text).ids)
        number = self._number()
        return len(self._open(ids)) + (number is not None) < 2

    def without_end(self, row: dict[str, Any], columns: Collection[str]) -> dict[str, Any] | None:
        """A row as one whose texts have no end token; None where they have none."""
        end = self.end
        if not end:
            return None
        ended = {
            name: value.removesuffix(end)
            for name in columns
            if isinstance(value := row.get(name), str) and value.endswith(end)
        }
        return {**row, **ended} if ended else None

    def _number(self) -> int | None:
        return self.tokenizer.token_to_id(self.end) if self.end else None

    def _open(self, ids: list[int]) -> list[int]:
        number = self._number()
        return ids[:-1] if ids and ids[-1] == number else ids

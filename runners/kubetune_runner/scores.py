"""Scores as pure functions: of a loss, and of a generated text and its reference (0 to 1).

Training's check on held-out rows and evaluations share them.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections import Counter
from typing import Any

MAX_EXPONENT = 80.0
"""A larger loss would make a perplexity that no one can read."""


def perplexity(loss: float) -> float:
    """The perplexity that goes with a loss per token."""
    return math.exp(min(loss, MAX_EXPONENT))


def composed(text: str) -> str:
    """The text as it is equal to all texts that Unicode calls equal, however marks are written."""
    return unicodedata.normalize("NFC", text)


def exact_match(answer: str, reference: str) -> bool:
    """Whether the texts are equal but for whitespace at their ends."""
    return composed(answer).strip() == composed(reference).strip()


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words between whitespace, 0 to 1."""
    words, wanted = composed(answer).split(), composed(reference).split()
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    return 2 * common / (len(words) + len(wanted))


def json_fields(answer: str, reference: str) -> float:
    """Share of the reference's fields that the answer has with equal values.

    An answer that isn't a JSON object has none; further fields don't count against it. To a
    reference without fields any object is right.

    Raises ValueError when the reference is no JSON object.
    """
    wanted = _object(reference)
    if wanted is None:
        raise ValueError("the reference is not a JSON object")
    given = _object(answer)
    if given is None:
        return 0.0
    if not wanted:
        return 1.0
    right = sum(name in given and _equal(given[name], value) for name, value in wanted.items())
    return right / len(wanted)


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(composed(text), parse_constant=_refuse)
    # Brackets nested too deep for the parser are no answer either.
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _equal(first: Any, second: Any) -> bool:
    """Equality of JSON values: true isn't 1, but 1.0 is."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_equal, first, second))
    return first == second

"""The grade in a judge's reply: that of the one object that was asked for.

A judge may think aloud, quote what it grades, or speak of grades. So an object within another is
never read, nor one that stands in the texts of the row, nor any where several are left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from kubetune.api.bounded import json_value

from kubetune_runner.evaluate.judge_request import SCORE
from kubetune_runner.finite import finite_number

THOUGHTS_END = "</think>"
"""What models that think aloud end their thoughts with."""
_FENCED = re.compile(r"```(?:json)?\s*\n?(.*?)\n?\s*```", re.DOTALL)


class ReplyError(Exception):
    """There is no grade in the reply; the text says why."""


class _TwiceError(ValueError):
    """An object has two scores."""


def text_of(body: bytes) -> str:
    """What the model has said. Raises ReplyError."""
    try:
        message: Any = json_value(body)["choices"][0]["message"]
        content: Any = message["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ReplyError("its reply is no chat completion") from None
    if isinstance(content, list):
        # Some endpoints answer in parts.
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def grade_of(reply: str, given: Sequence[str] = ()) -> float:
    """The grade; ``given`` are texts of the row, whose objects are none. Raises ReplyError."""
    said = reply.rpartition(THOUGHTS_END)[2].strip()
    fenced = _FENCED.fullmatch(said)
    said = fenced[1].strip() if fenced else said
    try:
        # Nothing else: it can't be a quotation.
        whole: Any = json.loads(said, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        found = _beside_words(said, given)
    else:
        found = [finite_number(whole.get(SCORE) if isinstance(whole, dict) else whole)]
    grades = {grade for grade in found if grade is not None}
    if len(grades) > 1:
        raise ReplyError("its reply has several grades")
    if not grades:
        raise ReplyError("its reply has no grade")
    return grades.pop()


def _beside_words(said: str, given: Sequence[str]) -> list[float | None]:
    """Grades of the objects between words, but for those that the row has."""
    quoted = {_canonical(item) for text in given for item in _anywhere(text)}
    return [
        finite_number(item[SCORE])
        for item in _outermost(said)
        if SCORE in item and _canonical(item) not in quoted
    ]


def _outermost(text: str) -> Iterator[dict[str, Any]]:
    """Objects that stand in no other braces."""
    at = text.find("{")
    while at >= 0:
        found, end = _decoded(text, at)
        if found is not None:
            yield found
        else:
            end = _closing(text, at)
        at = text.find("{", end)


def _anywhere(text: str) -> Iterator[dict[str, Any]]:
    for match in re.finditer(r"\{", text):
        found, _ = _decoded(text, match.start())
        if found is not None:
            yield found


def _decoded(text: str, at: int) -> tuple[dict[str, Any] | None, int]:
    try:
        found, end = json.JSONDecoder(object_pairs_hook=_object).raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at
    return found, end


def _closing(text: str, at: int) -> int:
    """Behind the brace that closes the one at ``at``; the end where none does."""
    depth = 0
    for match in re.finditer(r"[{}]", text[at:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return at + match.end()
    return len(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if [name for name, _ in pairs].count(SCORE) > 1:
        raise _TwiceError("two scores")
    return dict(pairs)


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)

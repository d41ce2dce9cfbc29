"""How answers begin and end, and what of a generated text is the answer itself."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CALLS = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """How an answer begins and ends."""

    turn: bool = False
    """Whether it is a turn of a chat, where whitespace at its ends is the template's."""
    end_tokens: Sequence[int] = ()
    end_text: str = ""
    """What ends an answer, where the tokenizer has no token for it."""
    before: str = ""
    """What a model says before its answer."""
    opened: str = ""
    closed: str = ""
    """What stands around thoughts."""


def read(tokenizer: Any, answers: list[list[int]], shape: Shape) -> list[str]:
    """Generated tokens as text: the answer itself, without marks and thoughts."""
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    special = [token for token in tokenizer.all_special_tokens if token in shape.closed]
    if special:
        # Without special tokens nothing would part thoughts and answer.
        for at, ids in enumerate(answers):
            whole = tokenizer.decode(ids, skip_special_tokens=False)
            if shape.closed in whole:
                after = tokenizer(whole.rpartition(shape.closed)[2], add_special_tokens=False)
                texts[at] = tokenizer.decode(after["input_ids"], skip_special_tokens=True)
    return [view(text, shape) for text in texts]


def view(text: str, shape: Shape) -> str:
    """What a turn says, whether it was generated or is one of the data.

    Calls of tools in the form that many templates have are their JSON.
    """
    return CALLS.sub(_call, _without_thoughts(text, shape))


def _call(found: re.Match[str]) -> str:
    try:
        return json.dumps(json.loads(found[1]), ensure_ascii=False)
    except ValueError:
        return found[0]


def _without_thoughts(text: str, shape: Shape) -> str:
    if shape.end_text:
        text = text.partition(shape.end_text)[0]
    if shape.closed and shape.closed in text:
        return text.rpartition(shape.closed)[2].strip()
    if shape.opened and shape.closed and text.lstrip().startswith(shape.opened):
        # Still thinking when the room for the answer was used up.
        return ""
    if shape.before and text.lstrip().startswith(shape.before):
        return text.lstrip().removeprefix(shape.before).strip()
    return text.strip() if shape.turn else text

"""What an answer looks like that a chat template has taught: how it begins and ends.

The template itself tells, from a turn that is rendered: behind the answer stands what ends it, and
between prompt and answer what a model says before it, such as an empty block of thoughts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kubetune_runner.answering.shape import Shape
from kubetune_runner.data.turns import REASONING
from kubetune_runner.errors import RunError
from kubetune_runner.text.chats import PROBES, chat_text
from kubetune_runner.text.prompts import Message

QUESTION = "Which tool, and where?"
THOUGHT = "Moss under the eaves"
_OPENED = re.compile(r"<(\w+)>\s*$")
_CLOSING = re.compile(r"</[^<>]+>|\[/[^\[\]]+\]")


def shape_of(tokenizer: Any, *, chat: bool) -> Shape:
    """The shape of answers; of texts that are no chats only the end token counts."""
    if not chat:
        return Shape()
    answer = PROBES[0]
    turns: list[Message] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": answer},
    ]
    before, rest = _around(turns, answer, tokenizer)
    if rest is None:
        return Shape(turn=True)
    tokens, text = _end(rest, tokenizer)
    opened = closed = ""
    with_thought, _ = _around([turns[0], {**turns[1], REASONING: THOUGHT}], answer, tokenizer)
    if THOUGHT in with_thought:
        opened, _, closed = with_thought.partition(THOUGHT)
    elif marks := _CLOSING.findall(before):
        closed = marks[-1]
        opened = before.partition(closed)[0]
    else:
        closed = _closing_of(chat_text(turns[:1], tokenizer, answer_follows=True), tokenizer)
    return Shape(
        turn=True,
        end_tokens=tokens,
        end_text=text,
        before=before.strip(),
        opened=opened.strip(),
        closed=closed.strip(),
    )


def _closing_of(prompt: str, tokenizer: Any) -> str:
    """The mark that ends thoughts which the prompt itself begins."""
    begun = _OPENED.search(prompt)
    closing = f"</{begun[1]}>" if begun else ""
    return closing if closing in str(tokenizer.chat_template) else ""


def _around(turns: Sequence[Message], answer: str, tokenizer: Any) -> tuple[str, str | None]:
    """What stands between prompt and answer, and behind the answer; None where it isn't told."""
    try:
        prompt = chat_text(turns[:-1], tokenizer, answer_follows=True)
        whole = chat_text(turns, tokenizer)
    except RunError:
        # It may refuse chats of this kind.
        return "", None
    at = whole.rfind(answer)
    if at < 0:
        return "", None
    shared = 0
    while shared < min(len(prompt), at) and prompt[shared] == whole[shared]:
        shared += 1
    return whole[shared:at] if shared == len(prompt) else "", whole[at + len(answer) :]


def _end(rest: str, tokenizer: Any) -> tuple[tuple[int, ...], str]:
    """The token that ends an answer, and the text before it that the tokenizer has no token for."""
    marks = {int(token) for token in tokenizer.get_added_vocab().values()}
    marks |= set(tokenizer.all_special_ids)
    ids: list[int] = tokenizer(rest, add_special_tokens=False)["input_ids"]
    at = next((at for at, token in enumerate(ids) if token in marks), None)
    if at is None:
        return (), rest.strip()
    return (ids[at],), tokenizer.decode(ids[:at]).strip()

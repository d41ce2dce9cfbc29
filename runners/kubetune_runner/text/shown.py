"""Which parts of a chat a template leaves out, so that nothing is learned from them.

A part is shown when another one in its place gives another text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kubetune_runner.data.spoken import Spoken
from kubetune_runner.data.turns import REASONING, REASONING_NAMES, WEIGHT

Message = dict[str, Any]
Render = Callable[[Sequence[Message], "Sequence[Any] | None"], str]
"""A chat and its tools as text; raises ValueError or RunError where the template refuses them."""

PROBE = "Quill by the oak"
THOUGHTS = "what a turn of the assistant thinks"
CALLS = "calls of tools"
_THOUGHT = re.compile(r"(?s)<think(?:ing)?>(?P<thought>.*?)</think(?:ing)?>")
"""Thoughts within what is said, as many models write them."""


def as_taken(messages: Sequence[Message], template: str) -> list[Message]:
    """The turns, with what was thought under the name by which the template takes it.

    Weights are for training alone.
    """
    taken = next((name for name in REASONING_NAMES if _reads(template, name)), REASONING)
    return [
        {
            taken if name == REASONING else name: value
            for name, value in turn.items()
            if name != WEIGHT
        }
        for turn in messages
    ]


def _reads(template: str, name: str) -> bool:
    """Whether a template asks a turn for a field, rather than having the word in its text."""
    return re.search(rf"""[.'"]{name}\b""", template) is not None


def hidden_in(spoken: Spoken, render: Render) -> list[str]:
    """What of a row isn't in its texts, in words, each once.

    Raises as ``render`` does for the chats themselves.
    """
    found: dict[str, None] = {}
    for chat in spoken.chats:
        probing = _Probing(chat.messages, chat.tools, render)
        for at, turn in enumerate(chat.messages):
            found |= dict.fromkeys(probing.hidden(at, turn))
        if chat.tools and render(chat.messages, None) == probing.whole:
            found["the list of tools"] = None
    return list(found | dict.fromkeys(spoken.unread))


class _Probing:
    """Renders a chat with something else in the place of its parts."""

    def __init__(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, render: Render
    ) -> None:
        self._messages, self._tools, self._render = messages, tools, render
        self.whole = render(messages, tools)
        marked = [
            {**turn, "content": _mark(at)} if turn["content"].strip() else turn
            for at, turn in enumerate(messages)
        ]
        try:
            # Texts that are alike are told apart so, by one more text for all turns.
            self._marked = render(marked, tools)
        # The template may want to read what is said.
        except Exception:
            self._marked = ""

    def hidden(self, at: int, turn: Message) -> Iterator[str]:
        """What isn't shown of a turn, in words."""
        role, text = turn["role"], turn["content"].strip()
        if text and _mark(at) not in self._marked and not self._shows(at, content=PROBE):
            yield f"a turn of role {role}"
        elif text and self._hides_a_thought(at, turn):
            yield THOUGHTS
        elif text and not _stands(text, self.whole):
            yield f"a part of a turn of role {role}"
        if turn.get(REASONING) and not self._shows(at, **{REASONING: PROBE}):
            yield THOUGHTS
        if not all(self._shows_call(at, number) for number in range(len(_calls(turn)))):
            yield CALLS
        if turn.get("name") and str(turn["name"]) not in self.whole:
            yield "the name of a tool that answers"

    def _shows(self, at: int, **other: Any) -> bool:
        messages = self._messages
        changed = [*messages[:at], {**messages[at], **other}, *messages[at + 1 :]]
        try:
            return self._render(changed, self._tools) != self.whole
        # A template that refuses the other part reads it.
        except Exception:
            return True

    def _hides_a_thought(self, at: int, turn: Message) -> bool:
        text = turn["content"]
        for found in _THOUGHT.finditer(text):
            start, end = found.span("thought")
            other = f"{text[:start]}{PROBE}{text[end:]}"
            if found["thought"].strip() and not self._shows(at, content=other):
                return True
        return False

    def _shows_call(self, at: int, number: int) -> bool:
        """Whether name and arguments of a call are shown."""
        calls = _calls(self._messages[at])
        function = calls[number]["function"]
        others = [{**function, "name": PROBE}]
        others += [
            {**function, "arguments": {**function["arguments"], name: PROBE}}
            for name in function["arguments"]
        ]
        return all(
            self._shows(
                at,
                tool_calls=[
                    *calls[:number],
                    {**calls[number], "function": other},
                    *calls[number + 1 :],
                ],
            )
            for other in others
        )


def _calls(turn: Message) -> list[Any]:
    return turn.get("tool_calls") or []


def _mark(at: int) -> str:
    return f"Quill{at}oak"


def _stands(text: str, whole: str) -> bool:
    """Whether all of a text is in another, maybe as JSON, in other letters or between marks."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1]
    if text in whole or escaped in whole:
        return True
    place, folded = 0, whole.casefold()
    for word in re.sub(r"</?think(?:ing)?>", " ", text).casefold().split():
        place = folded.find(word, place)
        if place < 0:
            return False
        place += len(word)
    return True

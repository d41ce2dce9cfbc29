"""Which parts of a chat a template leaves out, so that nothing is learned from them.

A part is shown when another one in its place gives another text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kubetune_runner.data.turns import REASONING, REASONING_NAMES

Message = dict[str, Any]
Render = Callable[[Sequence[Message], "Sequence[Any] | None"], str]
"""A chat and its tools as text; raises ValueError or RunError where the template refuses them."""

PROBE = "Quill by the oak"


def as_taken(messages: Sequence[Message], template: str) -> list[Message]:
    """The turns, with what was thought under the name by which the template takes it."""
    taken = next((name for name in REASONING_NAMES if name in template), REASONING)
    return [
        {taken if name == REASONING else name: value for name, value in turn.items()}
        for turn in messages
    ]


def hidden_parts(
    messages: Sequence[Message], tools: Sequence[Any] | None, unread: Sequence[str], render: Render
) -> list[str]:
    """What of a chat isn't in its text, in words, each once; ``unread`` are fields of turns.

    Raises as ``render`` does for the chat itself.
    """
    whole = render(messages, tools)

    def shows(at: int, **other: Any) -> bool:
        changed = [*messages[:at], {**messages[at], **other}, *messages[at + 1 :]]
        try:
            return render(changed, tools) != whole
        # A template that refuses the other part reads it.
        except Exception:
            return True

    found: dict[str, None] = {}
    for at, turn in enumerate(messages):
        role, text = turn["role"], turn["content"].strip()
        # What users and assistants say stands in the text as it is, nearly always.
        plain = role in ("user", "assistant") and text in whole
        if text and not plain and not shows(at, content=PROBE):
            found[f"a turn of role {role}"] = None
        if turn.get(REASONING) and not shows(at, **{REASONING: PROBE}):
            found["what a turn of the assistant thinks"] = None
        calls = turn.get("tool_calls") or ()
        if any(call["function"]["name"] not in whole for call in calls):
            found["calls of tools"] = None
    if tools and render(messages, None) == whole:
        found["the list of tools"] = None
    found.update({f"field {name} of a turn": None for name in unread})
    return list(found)

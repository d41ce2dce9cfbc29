"""Rows of formats preference and unpairedPreference: the same reading for inspection and training.

A row that can't be used says why; the inspection reports it and training leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.prompt_template.spec import as_text

from kubetune_runner.data.findings import quote
from kubetune_runner.data.turns import REASONING, turn_of, turns_fault, unread
from kubetune_runner.data.values import text_fault

Row = dict[str, Any]
Message = dict[str, str]
Text = str | list[Message]
"""Plain text, or the turns of a chat."""

_LABELS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt; all three are text, or all three are chats."""

    prompt: Text
    chosen: Text
    rejected: Text
    unread: tuple[str, ...] = field(default=(), compare=False)
    """What the row has and nobody reads, in words."""


@dataclass(frozen=True)
class Rated:
    """An answer to a prompt and whether it is good."""

    prompt: Text
    completion: Text
    label: bool
    unread: tuple[str, ...] = field(default=(), compare=False)
    """As of a Pair."""


class UnusableRowError(ValueError):
    """A row that nothing can be learned from; ``field`` is the column to blame, ``fault`` why."""

    def __init__(self, field: str, fault: str) -> None:
        super().__init__(f"{quote(field)} {fault}")
        self.field, self.fault = field, fault


def pair_of(row: Row, columns: ColumnMapping) -> Pair:
    """The pair of a row of format preference. Raises UnusableRowError.

    Without a prompt column, and in chats that begin before the answer, what both answers begin
    with is the prompt.
    """
    pair = _pair_of(row, columns)
    names = [columns.of("prompt"), columns.of("chosen"), columns.of("rejected")]
    found = _unread(row, names)
    if _is_lost(_prompt(row, names[0]), pair.prompt):
        found[f"column {quote(names[0])}"] = None
    return replace(pair, unread=tuple(found))


def _unread(row: Row, names: list[str]) -> dict[str, None]:
    """What nobody reads of the chats in columns, each once."""
    cells = [row.get(name) for name in names]
    chats = [cast("list[Any]", cell) for cell in cells if isinstance(cell, list)]
    return dict.fromkeys(part for chat in chats for part in unread(chat))


def _is_lost(given: Text, prompt: Text) -> bool:
    """Whether a prompt column says what the prompt in the chats doesn't."""
    if isinstance(prompt, str) or not given:
        return False
    if isinstance(given, list):
        return any(turn not in prompt for turn in given)
    return not any(given.strip() in turn["content"] for turn in prompt)


def _pair_of(row: Row, columns: ColumnMapping) -> Pair:
    name = columns.of("chosen")
    other = columns.of("rejected")
    chosen, rejected = _answer(row, name), _answer(row, other)
    if isinstance(chosen, str) != isinstance(rejected, str):
        kinds = ("text", "a chat") if isinstance(rejected, str) else ("a chat", "text")
        raise UnusableRowError(other, f"is {kinds[0]} and {quote(name)} is {kinds[1]}")
    if chosen == rejected:
        raise UnusableRowError(other, f"equals {quote(name)}, so there is nothing to prefer")
    prompt = _prompt(row, columns.of("prompt"))
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, list):
            return Pair(prompt, _turns(chosen), _turns(rejected))
        if prompt:
            return Pair(prompt, chosen, rejected)
        return _split_text(chosen, rejected)
    chosen, rejected = cast("list[Message]", chosen), cast("list[Message]", rejected)
    _check_end(chosen, name)
    _check_end(rejected, other)
    if chosen[0]["role"] != "assistant" or rejected[0]["role"] != "assistant":
        return _split_chat(chosen, rejected, name, other)
    if not prompt:
        raise UnusableRowError(columns.of("prompt"), "is empty")
    return Pair(_turns(prompt, "user"), chosen, rejected)


def rated_of(row: Row, columns: ColumnMapping) -> Rated:
    """The answer of a row of format unpairedPreference. Raises UnusableRowError."""
    rated = _rated_of(row, columns)
    found = _unread(row, [columns.of("prompt"), columns.of("completion")])
    return replace(rated, unread=tuple(found))


def _rated_of(row: Row, columns: ColumnMapping) -> Rated:
    name, label = columns.of("completion"), columns.of("label")
    completion = _answer(row, name)
    prompt = _prompt(row, columns.of("prompt"))
    if not prompt:
        raise UnusableRowError(columns.of("prompt"), "is empty")
    value = row.get(label)
    rated = _LABELS.get(str(value).strip().lower()) if isinstance(value, (bool, int, str)) else None
    if rated is None:
        raise UnusableRowError(label, "is neither true nor false")
    if isinstance(completion, str) and isinstance(prompt, str):
        return Rated(prompt, completion, rated)
    turns = _turns(completion)
    if turns[0]["role"] != "assistant":
        raise UnusableRowError(
            name, f"begins with a turn of {turns[0]['role']}: the turns before the answer belong"
            f" into {quote(columns.of('prompt'))}",
        )  # fmt: skip
    _check_end(turns, name)
    return Rated(_turns(prompt, "user"), turns, rated)


def _answer(row: Row, column: str) -> Text:
    value = row.get(column)
    fault = turns_fault(value) if isinstance(value, list) else text_fault(value)
    if fault:
        raise UnusableRowError(column, fault)
    return (
        _messages(cast("list[Any]", value), column) if isinstance(value, list) else as_text(value)
    )


def _prompt(row: Row, column: str) -> Text:
    """The prompt; empty text where there is none."""
    value = row.get(column)
    if text_fault(value) == "is empty" or value == []:
        return ""
    return _answer(row, column)


def _messages(value: list[Any], column: str) -> list[Message]:
    turns = [turn_of(turn) for turn in value]
    if any("tool_calls" in turn for turn in turns):
        raise UnusableRowError(
            column, "has a turn that calls tools, which objectives that learn preferences can't"
        )  # fmt: skip
    kept = ("role", "content", REASONING)
    return [{name: turn[name] for name in kept if name in turn} for turn in turns]


def _turns(text: Text, role: str = "assistant") -> list[Message]:
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def _check_end(turns: list[Message], column: str) -> None:
    if turns[-1]["role"] != "assistant":
        raise UnusableRowError(column, "doesn't end with a turn of the assistant")
    if not turns[-1]["content"].strip():
        raise UnusableRowError(column, "ends with an empty turn")


def _split_text(chosen: str, rejected: str) -> Pair:
    """What both texts begin with, up to the start of a word, is the prompt."""
    shared = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours != theirs:
            break
        shared += 1
    # A text that continues where the other ends keeps its last word, too.
    while shared and not chosen[shared - 1].isspace():
        shared -= 1
    while shared and chosen[shared - 1].isspace():
        shared -= 1
    return Pair(chosen[:shared], chosen[shared:], rejected[shared:])


def _split_chat(
    chosen: list[Message], rejected: list[Message], name: str, other: str
) -> Pair:  # fmt: skip
    shared = 0
    for ours, theirs in zip(chosen[:-1], rejected[:-1], strict=False):
        if ours != theirs:
            break
        shared += 1
    while shared and "assistant" not in (chosen[shared]["role"], rejected[shared]["role"]):
        shared -= 1
    if not shared or chosen[shared]["role"] != rejected[shared]["role"]:
        raise UnusableRowError(
            other,
            f"doesn't begin with the turns of {quote(name)}: both must answer the same prompt",
        )
    return Pair(chosen[:shared], chosen[shared:], rejected[shared:])

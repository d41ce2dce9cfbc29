"""Rows become examples: prompt and completion, plain text, or a chat.

The first step after reading the data; no tokenizer is needed yet. ``encoding`` goes on from
here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import ceil
from typing import Any

from kubetune.api.dataset import ColumnMapping
from kubetune.api.plan import DatasetPlan, PromptPlan
from kubetune.api.prompt_template import as_text, render, slots

from kubetune_runner.data.values import tools_of, turn_of, turns_fault
from kubetune_runner.errors import RunError

Row = dict[str, Any]
Message = dict[str, Any]
"""role and content; of the assistant maybe tool_calls, of a tool maybe name and tool_call_id."""
Tool = dict[str, Any]
"""A function that the assistant may call, as a JSON schema."""


@dataclass(frozen=True)
class Example:
    """One training text: exactly one of completion (with prompt), text and messages is set."""

    prompt: str = ""
    completion: str | None = None
    text: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    """What the assistant of the chat may call."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn from it."""
        if self.messages is not None:
            return not any(
                m["role"] == "assistant" and (m["content"].strip() or m.get("tool_calls"))
                for m in self.messages
            )
        return not (self.completion or self.text or "").strip()


def choose(rows: list[Row], fraction: float, seed: int) -> list[Row]:
    """A share of the rows, at least one, in their order; the same for the same seed."""
    if fraction >= 1:
        return rows
    count = max(1, ceil(len(rows) * fraction))
    chosen = random.Random(seed).sample(range(len(rows)), count)  # noqa: S311 - not a secret
    return [rows[i] for i in sorted(chosen)]


def make_examples(
    rows: list[Row], dataset: DatasetPlan, prompt: PromptPlan | None
) -> list[Example]:
    """One example a row.

    Raises RunError when a row lacks a column (ColumnMissing) or doesn't have the format's shape
    (RowShape), or the format isn't one to train on here (FormatUnsupported).
    """
    examples: list[Example] = []
    for number, row in enumerate(rows, start=1):
        try:
            examples.append(
                _from_columns(row, dataset) if prompt is None else _from_template(row, prompt)
            )
        except KeyError as error:
            raise RunError(
                "ColumnMissing",
                f"row {number} of dataset {dataset.name} has no column {error.args[0]!r}, it has"
                f" {', '.join(sorted(row))}: correct the PromptTemplate's slots or the Dataset's"
                " columns",
            ) from None
        except _ShapeError as error:
            raise RunError("RowShape", f"row {number} of dataset {dataset.name}: {error}") from None
    return examples


class _ShapeError(ValueError):
    """A row doesn't look as its format says; the text names the column."""


def _from_template(row: Row, prompt: PromptPlan) -> Example:
    if prompt.messages is not None:
        return Example(
            messages=[{"role": m.role, "content": _filled(m.content, row)} for m in prompt.messages]
        )
    return Example(
        prompt=_filled(prompt.prompt or "", row), completion=_filled(prompt.completion or "", row)
    )


def _filled(template: str, row: Row) -> str:
    for slot in slots(template):
        if slot not in row:
            raise KeyError(slot)
    return render(template, row)


def _from_columns(row: Row, dataset: DatasetPlan) -> Example:
    columns: ColumnMapping = dataset.columns
    match dataset.format:
        case "promptCompletion":
            return Example(
                prompt=_text(row, columns.prompt), completion=_text(row, columns.completion)
            )
        case "text":
            return Example(text=_text(row, columns.text))
        case "messages":
            return Example(
                messages=_messages(row, columns.messages), tools=_tools(row, columns.of("tools"))
            )
        case "preference" | "unpairedPreference":
            raise RunError(
                "FormatUnsupported",
                f"dataset {dataset.name} has format {dataset.format}, which makes no text by"
                " itself: give the job a promptRef that uses the columns",
            )


def _text(row: Row, column: str) -> str:
    value = row[column]
    if isinstance(value, list | dict):
        raise _ShapeError(
            f"column {column!r} holds a {type(value).__name__}, not text: use format messages for"
            f" chats, or a PromptTemplate, where {{{column}}} is its JSON"
        )
    return as_text(value)


def _messages(row: Row, column: str) -> list[Message]:
    value = row[column]
    if fault := turns_fault(value):
        raise _ShapeError(f"column {column!r} {fault}")
    return [turn_of(message) for message in value]


def _tools(row: Row, column: str) -> list[Tool] | None:
    try:
        return tools_of(row.get(column))
    except ValueError as error:
        raise _ShapeError(f"column {column!r} {error}") from None

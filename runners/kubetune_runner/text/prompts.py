"""Rows become examples: prompt and completion, plain text, or a chat.

The first step after reading the data; no tokenizer is needed yet. ``encoding`` continues from
here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.kinds.prompt_template.spec import as_text, render, slots
from kubetune.api.rows import FORMAT_ROLES
from kubetune.api.run.plan import DatasetPlan, PromptPlan

from kubetune_runner.data.findings import listing, quote
from kubetune_runner.data.spoken import Chat, Spoken, spoken_of
from kubetune_runner.data.turns import REASONING, answers
from kubetune_runner.data.verdicts import Fault, Place, fault_of
from kubetune_runner.errors import RunError

Row = dict[str, Any]
Message = dict[str, Any]
"""role and content; of the assistant maybe tool_calls, of a tool maybe name and tool_call_id."""
Tool = dict[str, Any]
"""A function that the assistant may call, as a JSON schema."""


@dataclass(frozen=True)
class Example:
    """One training text: exactly one of completion (with prompt), text, messages, fault is set."""

    prompt: str = ""
    completion: str | None = None
    text: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    """What the assistant of the chat may call."""
    unread: tuple[str, ...] = field(default=(), compare=False)
    """What the row has and nobody reads, in words."""
    fault: Fault | None = None
    """Why the row is left out; then nothing else is set."""
    place: Place | None = field(default=None, compare=False)
    """Where the row stands, for messages."""

    @property
    def spoken(self) -> Spoken:
        """What it says that its text may leave out."""
        chats = [] if self.messages is None else [Chat(self.messages, self.tools)]
        return Spoken(chats, self.unread)

    @property
    def answer_bytes(self) -> int:
        """Bytes of what is learned of it, whatever a tokenizer makes of that."""
        if self.messages is not None:
            return sum(map(_bytes_said, filter(answers, self.messages)))
        return len((self.completion or self.text or "").encode(errors="replace"))

    @property
    def unusable(self) -> bool:
        """Whether the row doesn't fit the dataset's format."""
        return self.fault is not None and not self.fault.empty

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn from it."""
        if self.fault is not None:
            return self.fault.empty
        if self.messages is not None:
            return not any(map(answers, self.messages))
        return not (self.completion or self.text or "").strip()


def _bytes_said(turn: Message) -> int:
    calls = json.dumps(turn["tool_calls"], ensure_ascii=False) if turn.get("tool_calls") else ""
    said = (turn.get("content") or "", turn.get(REASONING) or "", calls)
    return sum(len(str(part).encode(errors="replace")) for part in said)


def chosen(count: int, fraction: float, seed: int) -> Sequence[int]:
    """Which of ``count`` rows are a share of them, at least one, in their order; the same for the
    same seed.
    """
    if fraction >= 1 or not count:
        return range(count)
    wanted = max(1, ceil(count * fraction))
    return sorted(random.Random(seed).sample(range(count), wanted))  # noqa: S311 - not a secret


def make_examples(
    rows: Sequence[Row],
    dataset: DatasetPlan,
    prompt: PromptPlan | None,
    places: Sequence[Place] | None = None,
    known: Collection[str] = (),
) -> list[Example]:
    """One example a row; one that can't be learned from says so by its ``fault``.

    A column that a row lacks and others have is null, as Parquet has it; ``known`` are columns that
    rows elsewhere in the dataset have.

    Raises RunError when no row has a column (ColumnMissing), or the format isn't one to train on
    here (FormatUnsupported).
    """
    if prompt is None and dataset.format in ("preference", "unpairedPreference"):
        raise RunError(
            "FormatUnsupported",
            f"dataset {dataset.name} has format {dataset.format}, which makes no text by"
            " itself: give the job a promptRef that uses the columns",
        )
    _check_columns({*known, *(name for row in rows for name in row)}, dataset, prompt)
    where = places if places is not None else [None] * len(rows)
    return [
        replace(
            _from_columns(row, dataset) if prompt is None else _from_template(row, prompt),
            place=place,
        )
        for row, place in zip(rows, where, strict=True)
    ]


def _check_columns(known: set[str], dataset: DatasetPlan, prompt: PromptPlan | None) -> None:
    if prompt is None:
        roles = FORMAT_ROLES[dataset.format]
        wanted = [dataset.columns.of(role, known) for role in roles]
    else:
        parts = [prompt.prompt, prompt.completion, *(m.content for m in prompt.messages or ())]
        wanted = [slot for part in parts if part for slot in slots(part)]
    for name in wanted:
        if known and name not in known:
            raise RunError(
                "ColumnMissing",
                f"no row of dataset {dataset.name} has a column {quote(name)}, they have"
                f" {listing(sorted(known))}: correct the PromptTemplate's slots or the Dataset's"
                " columns",
            )


def _from_template(row: Row, prompt: PromptPlan) -> Example:
    if prompt.messages is not None:
        return Example(
            messages=[{"role": m.role, "content": _filled(m.content, row)} for m in prompt.messages]
        )
    return Example(
        prompt=_filled(prompt.prompt or "", row), completion=_filled(prompt.completion or "", row)
    )


def _filled(template: str, row: Row) -> str:
    return render(template, {slot: row.get(slot) for slot in slots(template)})


def _from_columns(row: Row, dataset: DatasetPlan) -> Example:
    columns: ColumnMapping = dataset.columns
    if fault := fault_of(row, dataset.format, columns):
        return Example(fault=fault)
    said = spoken_of(row, dataset.format, columns)
    match dataset.format:
        case "text":
            return Example(text=as_text(row[columns.text]), unread=said.unread)
        case "messages":
            (chat,) = said.chats
            return Example(messages=chat.messages, tools=chat.tools, unread=said.unread)
        case _:
            return Example(
                prompt=as_text(row[columns.prompt]),
                completion=as_text(row[columns.completion]),
                unread=said.unread,
            )

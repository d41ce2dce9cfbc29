"""Examples become token ids with labels; the loss is computed where a label isn't IGNORED.

Labels are made here and not by trl, so that prompt and completion are cut at exactly the place
where generation starts. Those of chats are made in ``chats``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

from kubetune.api.training.settings import LongRows

from kubetune_runner.answering.shape import view
from kubetune_runner.errors import RunError
from kubetune_runner.hidden import find_hidden
from kubetune_runner.text.answers import shape_of
from kubetune_runner.text.chats import (
    IGNORED,
    label_answers,
    last_answer,
    learns,
    naming,
)
from kubetune_runner.text.prompts import Example

__all__ = [
    "IGNORED",
    "Counts",
    "EncodedRow",
    "EncodedRows",
    "check_lengths",
    "closed",
    "encode",
    "end_of",
    "prompt_token_ids",
]


@dataclass(frozen=True)
class EncodedRow:
    """One training text as token ids."""

    input_ids: list[int]
    labels: list[int]
    """As long as input_ids; IGNORED where no loss is computed."""
    prompt_ids: list[int] | None = None
    """What the answer is generated from; None for plain text."""
    prompt: str = ""
    reference: str = ""
    """The answer as the data has it."""
    chat: bool = False


EncodedT = TypeVar("EncodedT")


_MAXIMA = ("longest", "largest")


@dataclass
class Counts:
    """What became of the rows of a split, or of some of them."""

    used: int = 0
    empty: int = 0
    """Rows without an answer or text; they are left out."""
    unusable: int = 0
    """Rows that don't fit the dataset's format, or of no use as a preference; left out too."""
    cut: int = 0
    """Rows longer than maxLength; they are cut at the end."""
    cut_away: int = 0
    """Rows left out since nothing to learn from was left within maxLength."""
    dropped: int = 0
    """Rows longer than maxLength that are left out by data.longRows."""
    hidden: int = 0
    """Rows with parts that their text doesn't show."""
    encoded: int = 0
    """Rows that became token ids, whether they are used or not."""
    longest: int = 0
    """Tokens of the longest row that was dropped."""
    largest: int = 0
    """The largest token id of the rows that are used."""

    def add(self, other: Counts) -> None:
        """Count other rows too."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            setattr(self, name, max(mine, value) if name in _MAXIMA else mine + value)

    def counts(self) -> dict[str, int]:
        """What became of the rows, as status.result.rows has it."""
        return {
            "used": self.used,
            "empty": self.empty,
            "unusable": self.unusable,
            "cut": self.cut,
            "cutAway": self.cut_away,
            "dropped": self.dropped,
            "hidden": self.hidden,
        }


@dataclass
class EncodedRows(Counts, Generic[EncodedT]):
    """Encoded rows, and what became of the others."""

    rows: Sequence[EncodedT] = field(default_factory=list[EncodedT])
    notes: dict[str, str] = field(default_factory=dict[str, str])
    """By kind: a sentence for the log on the first row of which there is something to say."""

    def note(self, kind: str, sentence: str) -> None:
        """Keep a sentence, if it is the first of its kind."""
        if sentence:
            self.notes.setdefault(kind, sentence)

    @property
    def tally(self) -> Counts:
        """The numbers alone."""
        return Counts(**{each.name: getattr(self, each.name) for each in fields(Counts)})


def encode(
    examples: list[Example],
    tokenizer: Any,
    max_length: int,
    long_rows: LongRows = "truncate",
    *,
    refuse_hidden: bool = False,
) -> EncodedRows[EncodedRow]:
    """Encode examples, none of them longer than ``max_length`` tokens.

    With ``refuse_hidden`` rows of which the text doesn't show everything raise RunError. Whether
    long ones end the run is for ``check_lengths``, when all are encoded.

    Raises RunError ChatTemplateMissing, ChatTemplateUnsupported or PartsHidden.
    """
    result = EncodedRows[EncodedRow]()
    rows: list[EncodedRow] = []
    filled = [example for example in examples if not (example.empty or example.unusable)]
    result.empty = sum(example.empty for example in examples)
    result.unusable = sum(example.unusable for example in examples)
    spoken = ((each.place, each.spoken) for each in filled)
    hidden = find_hidden(spoken, tokenizer, refuse=refuse_hidden)
    result.hidden = hidden.count
    result.note("hidden", hidden.first)
    for row in _encoded(filled, tokenizer):
        if len(row.input_ids) > max_length and long_rows != "truncate":
            result.dropped += 1
            result.longest = max(result.longest, len(row.input_ids))
            continue
        kept = row
        if len(row.input_ids) > max_length:
            ids, labels = row.input_ids[:max_length], row.labels[:max_length]
            kept = replace(row, input_ids=ids, labels=labels)
        if _learns_nothing(kept):
            whole = _learns_nothing(row)
            result.empty += whole
            result.cut_away += not whole
            continue
        result.cut += len(row.input_ids) > max_length
        rows.append(kept)
    result.rows, result.used, result.encoded = rows, len(rows), len(filled)
    return result


def _learns_nothing(row: EncodedRow) -> bool:
    """Whether no token has a label; the first one has no predecessor to be predicted from."""
    learned = row.labels[1:]
    return learned.count(IGNORED) == len(learned)


def check_lengths(found: Counts, max_length: int, long_rows: LongRows) -> None:
    """Raise RunError RowsTooLong where rows of a split are, and that is to be refused."""
    if not found.dropped or long_rows != "refuse":
        return
    raise RunError(
        "RowsTooLong",
        f"{found.dropped} of {found.encoded} rows have more than hyperparameters.maxLength"
        f" {max_length} tokens, the longest {found.longest}, and data.longRows is refuse: raise"
        " maxLength, or set longRows to truncate or drop",
    )


def prompt_token_ids(tokenizer: Any, prompts: list[str]) -> list[list[int]]:
    """Prompts as generation reads them: with the start token, without an end token of the
    tokenizer's own. One that the text has stays, such as that between two turns.
    """
    if not prompts:
        return []
    encoded: list[list[int]] = tokenizer(prompts)["input_ids"]
    adds_end = tokenizer("a")["input_ids"][-1:] == end_of(tokenizer) != []
    return [ids[:-1] if adds_end else ids for ids in encoded]


def closed(ids: list[int], tokenizer: Any) -> list[int]:
    """Token ids with the end token behind them, which the text may have itself."""
    end = end_of(tokenizer)
    return ids if ids[-1:] == end else [*ids, *end]


def _encoded(examples: list[Example], tokenizer: Any) -> Iterator[EncodedRow]:
    """All examples of a split have the same shape."""
    if not examples:
        return iter(())
    if examples[0].messages is not None:
        return _chats(examples, tokenizer)
    if examples[0].text is not None:
        return _texts(examples, tokenizer)
    return _pairs(examples, tokenizer)


def _texts(examples: list[Example], tokenizer: Any) -> Iterator[EncodedRow]:
    for ids in prompt_token_ids(tokenizer, [example.text or "" for example in examples]):
        whole = closed(ids, tokenizer)
        yield EncodedRow(whole, list(whole))


def _pairs(examples: list[Example], tokenizer: Any) -> Iterator[EncodedRow]:
    prompts = prompt_token_ids(tokenizer, [e.prompt for e in examples])
    answers = [e.completion or "" for e in examples]
    whole = prompt_token_ids(tokenizer, [f"{e.prompt}{e.completion}" for e in examples])
    for example, prompt, joint, text in zip(examples, prompts, whole, answers, strict=True):
        # Tokens of the joint text are more natural, but generation starts from the prompt's own
        # tokens: where the two disagree the answer is encoded by itself.
        if joint[: len(prompt)] == prompt:
            answer = joint[len(prompt) :]
        else:
            answer = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = closed(answer, tokenizer)
        yield EncodedRow(
            [*prompt, *answer],
            [*[IGNORED] * len(prompt), *answer],
            prompt,
            example.prompt,
            example.completion or "",
        )


def _chats(examples: list[Example], tokenizer: Any) -> Iterator[EncodedRow]:
    shape = shape_of(tokenizer, chat=True)
    # A template that ends a turn with nothing would teach the model to continue for ever.
    end = [] if shape.end_tokens or shape.end_text else end_of(tokenizer)
    for example in examples:
        messages = example.messages or []
        with naming(example.place):
            ids, labels = label_answers(messages, tokenizer, example.tools)
            prompt, reference = last_answer(messages, tokenizer, example.tools)
        if messages[-1]["role"] == "assistant":
            learned = end if learns(messages[-1]) else [IGNORED] * len(end)
            ids, labels = [*ids, *end], [*labels, *learned]
        prompt_ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        yield EncodedRow(ids, labels, prompt_ids, prompt, view(reference, shape), chat=True)


def end_of(tokenizer: Any) -> list[int]:
    """The end token, as ids to put behind an answer."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

"""Examples become token ids with labels; the loss is computed where a label isn't IGNORED.

Labels are made here and not by trl, so that prompt and completion are cut at exactly the place
where generation starts. Those of chats are made in ``chats``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from kubetune.api.training.settings import LongRows

from kubetune_runner.answering.shape import view
from kubetune_runner.errors import RunError
from kubetune_runner.hidden import count_hidden
from kubetune_runner.text.answers import shape_of
from kubetune_runner.text.chats import (
    IGNORED,
    label_answers,
    last_answer,
    learns,
    naming,
)
from kubetune_runner.text.prompts import Example

__all__ = ["IGNORED", "EncodedRow", "EncodedRows", "closed", "encode", "end_of", "prompt_token_ids"]


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


@dataclass
class EncodedRows(Generic[EncodedT]):
    """The rows of one split, and what became of the others."""

    rows: list[EncodedT] = field(default_factory=list[EncodedT])
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

    def counts(self) -> dict[str, int]:
        """What became of the rows, as status.result.rows has it."""
        return {
            "used": len(self.rows),
            "empty": self.empty,
            "unusable": self.unusable,
            "cut": self.cut,
            "cutAway": self.cut_away,
            "dropped": self.dropped,
            "hidden": self.hidden,
        }


def encode(
    examples: list[Example],
    tokenizer: Any,
    max_length: int,
    long_rows: LongRows = "truncate",
    *,
    refuse_hidden: bool = False,
) -> EncodedRows[EncodedRow]:
    """Encode the examples of a split, none of them longer than ``max_length`` tokens.

    With ``refuse_hidden`` rows of which the text doesn't show everything raise RunError.

    Raises RunError ChatTemplateMissing, ChatTemplateUnsupported, PartsHidden or RowsTooLong.
    """
    result = EncodedRows[EncodedRow]()
    longest = too_long = 0
    filled = [example for example in examples if not (example.empty or example.unusable)]
    result.empty = sum(example.empty for example in examples)
    result.unusable = sum(example.unusable for example in examples)
    spoken = ((each.place, each.spoken) for each in filled)
    result.hidden = count_hidden(spoken, tokenizer, refuse=refuse_hidden)
    for row in _encoded(filled, tokenizer):
        if len(row.input_ids) > max_length and long_rows != "truncate":
            too_long += 1
            longest = max(longest, len(row.input_ids))
            continue
        kept = replace(row, input_ids=row.input_ids[:max_length], labels=row.labels[:max_length])
        # The first token has no predecessor to be predicted from.
        if all(label == IGNORED for label in kept.labels[1:]):
            whole = all(label == IGNORED for label in row.labels[1:])
            result.empty += whole
            result.cut_away += not whole
            continue
        result.cut += len(row.input_ids) > max_length
        result.rows.append(kept)
    if too_long and long_rows == "refuse":
        raise RunError(
            "RowsTooLong",
            f"{too_long} of {len(filled)} rows have more than hyperparameters.maxLength"
            f" {max_length} tokens, the longest {longest}, and data.longRows is refuse: raise"
            " maxLength, or set longRows to truncate or drop",
        )
    result.dropped = too_long
    return result


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
    alone: list[list[int]] = tokenizer(answers, add_special_tokens=False)["input_ids"]
    for example, prompt, joint, separate in zip(examples, prompts, whole, alone, strict=True):
        # Tokens of the joint text are more natural, but generation starts from the prompt's own
        # tokens: where the two disagree the answer is encoded by itself.
        answer = joint[len(prompt) :] if joint[: len(prompt)] == prompt else separate
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

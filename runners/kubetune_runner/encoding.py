"""Examples become token ids with labels; the loss is computed where a label isn't IGNORED.

Labels are made here and not by trl, so that prompt and completion are cut at exactly the place
where generation starts, and a chat template needs no markers for the assistant's turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from kubetune.api.training import LongRows

from kubetune_runner.errors import RunError
from kubetune_runner.prompts import Example, Message

IGNORED = -100


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


EncodedT = TypeVar("EncodedT")


@dataclass
class EncodedRows(Generic[EncodedT]):
    """The rows of one split, and what became of the others."""

    rows: list[EncodedT] = field(default_factory=list[EncodedT])
    empty: int = 0
    """Rows without an answer or text, or of no use as a preference; they are left out."""
    cut: int = 0
    """Rows longer than maxLength; they are cut at the end."""
    cut_away: int = 0
    """Rows left out since nothing to learn from was left within maxLength."""
    dropped: int = 0
    """Rows longer than maxLength that are left out by data.longRows."""


def encode(
    examples: list[Example], tokenizer: Any, max_length: int, long_rows: LongRows = "truncate"
) -> EncodedRows[EncodedRow]:
    """Encode the examples of a split, none of them longer than ``max_length`` tokens.

    Raises RunError ChatTemplateMissing, ChatTemplateUnsupported or RowsTooLong.
    """
    result = EncodedRows[EncodedRow]()
    longest = too_long = 0
    filled = [example for example in examples if not example.empty]
    result.empty = len(examples) - len(filled)
    for row in _encoded(filled, tokenizer):
        if len(row.input_ids) > max_length and long_rows != "truncate":
            too_long += 1
            longest = max(longest, len(row.input_ids))
            continue
        kept = EncodedRow(
            row.input_ids[:max_length],
            row.labels[:max_length],
            row.prompt_ids,
            row.prompt,
            row.reference,
        )
        # The first token has no predecessor to be predicted from.
        if all(label == IGNORED for label in kept.labels[1:]):
            result.cut_away += 1
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
    """Prompts as generation reads them: with the start token, without an end token."""
    if not prompts:
        return []
    end = tokenizer.eos_token_id
    encoded: list[list[int]] = tokenizer(prompts)["input_ids"]
    return [ids[:-1] if ids and ids[-1] == end else ids for ids in encoded]


def _encoded(examples: list[Example], tokenizer: Any) -> Iterator[EncodedRow]:
    """All examples of a split have the same shape."""
    if not examples:
        return iter(())
    if examples[0].messages is not None:
        return (_chat(example.messages or [], tokenizer) for example in examples)
    if examples[0].text is not None:
        return _texts(examples, tokenizer)
    return _pairs(examples, tokenizer)


def _texts(examples: list[Example], tokenizer: Any) -> Iterator[EncodedRow]:
    end = end_of(tokenizer)
    for ids in prompt_token_ids(tokenizer, [example.text or "" for example in examples]):
        yield EncodedRow([*ids, *end], [*ids, *end])


def _pairs(examples: list[Example], tokenizer: Any) -> Iterator[EncodedRow]:
    end = end_of(tokenizer)
    prompts = prompt_token_ids(tokenizer, [e.prompt for e in examples])
    answers = [e.completion or "" for e in examples]
    whole = prompt_token_ids(tokenizer, [f"{e.prompt}{e.completion}" for e in examples])
    alone: list[list[int]] = tokenizer(answers, add_special_tokens=False)["input_ids"]
    for example, prompt, joint, separate in zip(examples, prompts, whole, alone, strict=True):
        # Tokens of the joint text are more natural, but generation starts from the prompt's own
        # tokens: where the two disagree the answer is encoded by itself.
        answer = joint[len(prompt) :] if joint[: len(prompt)] == prompt else separate
        yield EncodedRow(
            [*prompt, *answer, *end],
            [*[IGNORED] * len(prompt), *answer, *end],
            prompt,
            example.prompt,
            example.completion or "",
        )


def end_of(tokenizer: Any) -> list[int]:
    """The end token, as ids to put behind an answer."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def chat_text(messages: list[Message], tokenizer: Any, *, answer_follows: bool = False) -> str:
    """A chat as the model's own template renders it.

    Raises RunError ChatTemplateMissing or ChatTemplateUnsupported.
    """
    if not tokenizer.chat_template:
        raise RunError(
            "ChatTemplateMissing",
            "the data is a chat, but the model's tokenizer has no chat template: use an"
            " instruction-tuned model, or text for prompts and answers",
        )
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=answer_follows
        )
    except Exception as error:  # a template may raise anything
        raise RunError(
            "ChatTemplateUnsupported",
            f"the model's chat template refuses the data: {str(error).splitlines()[0][:200]}:"
            " change the order of roles in the messages, or use prompt and completion",
        ) from error


def _chat(messages: list[Message], tokenizer: Any) -> EncodedRow:
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    whole = chat_text(messages, tokenizer)
    spans = [
        (
            chat_text(messages[:turn], tokenizer, answer_follows=True),
            chat_text(messages[: turn + 1], tokenizer),
        )
        for turn in turns
    ]
    prompt = spans[-1][0]
    ids, labels = _label_spans(whole, spans, tokenizer) or _label_marked(messages, tokenizer)
    prompt_ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return EncodedRow(ids, labels, prompt_ids, prompt, messages[turns[-1]]["content"])


def _label_spans(
    whole: str, spans: list[tuple[str, str]], tokenizer: Any
) -> tuple[list[int], list[int]] | None:
    """Label the assistant's turns: what rendering one more message adds to the text.

    None when the template renders a message differently once others follow, or the tokenizer
    can't tell where tokens start.
    """
    if not tokenizer.is_fast or not all(
        whole.startswith(through) and through.startswith(before) for before, through in spans
    ):
        return None
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    labels = [
        token if any(len(before) <= start < len(through) for before, through in spans) else IGNORED
        for token, (start, _) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    return ids, labels


def _label_marked(messages: list[Message], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Label what the template itself marks with {% generation %}."""
    if "{% generation %}" not in tokenizer.chat_template.replace("{%-", "{%").replace("-%}", "%}"):
        raise RunError(
            "ChatTemplateUnsupported",
            "the model's chat template renders earlier turns differently later and doesn't mark"
            " the assistant's turns: add {% generation %} markers to it, or use prompt and"
            " completion, so that loss is computed on answers alone",
        )
    encoded = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids: list[int] = encoded["input_ids"]
    mask: list[int] = encoded["assistant_masks"]
    return ids, [token if marked else IGNORED for token, marked in zip(ids, mask, strict=True)]

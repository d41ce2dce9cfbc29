"""Chats become text by the tokenizer's template, and the assistant's turns are found in it.

Loss belongs on what the assistant says and on the mark that ends a turn. Three ways find that, in
this order, and each is exact or says that it doesn't apply:

1. A chat's beginning renders as the beginning of the whole: what one more message adds is a turn.
2. The template marks the turns itself with {% generation %}.
3. Another answer in a turn's place changes the text there and nowhere else, so the two texts
   differ exactly in the turn.

A turn of the assistant whose weight is 0 is context for those that follow, and isn't learned.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Sequence
from typing import Any

from kubetune_runner.data.turns import WEIGHT
from kubetune_runner.data.verdicts import Place
from kubetune_runner.errors import RunError
from kubetune_runner.text.prompts import Message, Tool
from kubetune_runner.text.shown import as_taken

IGNORED = -100
"""The label of a token that no loss is computed on."""
TEMPLATE_REFUSES = "ChatTemplateUnsupported"
"""The reason of a RunError where a chat template can't render a chat."""
PROBES = ("Axe and ink Z", "Quill by the oak")
"""Answers to put in a turn's place: no two begin or end with the same character."""

Span = tuple[int, int]


def chat_text(
    messages: Sequence[Message],
    tokenizer: Any,
    tools: Sequence[Tool] | None = None,
    *,
    answer_follows: bool = False,
) -> str:
    """A chat as the model's own template renders it.

    Raises RunError ChatTemplateMissing or ChatTemplateUnsupported.
    """
    if not tokenizer.chat_template:
        raise RunError(
            "ChatTemplateMissing",
            "the data is a chat, but the model's tokenizer has no chat template: set"
            " tokenizer.chatTemplate, or use an instruction-tuned model, or text for prompts and"
            " answers",
        )
    try:
        return tokenizer.apply_chat_template(
            as_taken(messages, str(tokenizer.chat_template)),
            tools=list(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=answer_follows,
        )
    except Exception as error:  # a template may raise anything
        text = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RunError(
            TEMPLATE_REFUSES,
            f"the chat template refuses the data: {text}: change the order of roles in the"
            " messages, set another tokenizer.chatTemplate, or use prompt and completion",
        ) from error


def last_answer(
    messages: Sequence[Message], tokenizer: Any, tools: Sequence[Tool] | None = None
) -> tuple[str, str]:
    """What generation of the last answer that is learned starts from, and that answer.

    It is what the turn says and not what was thought; calls of tools are as the template has them.
    """
    turn = max(filter(lambda at: learns(messages[at]), _answers(messages)))
    prompt = prompt_text(messages, turn, tokenizer, tools)
    said = messages[turn]
    if not said.get("tool_calls"):
        return prompt, said["content"]
    through = chat_text(messages[: turn + 1], tokenizer, tools)
    if not through.startswith(prompt):
        return prompt, _calls(said)
    ids = tokenizer(through[len(prompt) :], add_special_tokens=False)["input_ids"]
    return prompt, tokenizer.decode(ids, skip_special_tokens=True)


def prompt_text(
    messages: Sequence[Message], turn: int, tokenizer: Any, tools: Sequence[Tool] | None = None
) -> str:
    """What stands before an answer when it is generated.

    A template may refuse a chat that is cut short there, such as one without any turn: then it's
    what stands before the answer in the text.
    """
    try:
        return chat_text(messages[:turn], tokenizer, tools, answer_follows=True)
    except RunError as error:
        if error.reason != TEMPLATE_REFUSES:
            raise
    whole = chat_text(messages, tokenizer, tools)
    return whole[: _changed(whole, messages, turn, tokenizer, tools)[0]]


@contextlib.contextmanager
def naming(place: Place | None) -> Generator[None]:
    """Have a refusal of the chat template say which row it refuses."""
    try:
        yield
    except RunError as error:
        if place is None or error.reason != TEMPLATE_REFUSES:
            raise
        raise RunError(error.reason, f"{place}: {error.message}") from error


def label_answers(
    messages: Sequence[Message], tokenizer: Any, tools: Sequence[Tool] | None = None
) -> tuple[list[int], list[int]]:
    """Token ids of a chat, and labels: the id within the assistant's turns, IGNORED elsewhere.

    Raises RunError ChatTemplateMissing or ChatTemplateUnsupported.
    """
    whole = chat_text(messages, tokenizer, tools)
    _check_tools(whole, messages, tokenizer, tools)
    learned = [at for at in _answers(messages) if learns(messages[at])]
    spans = _added_spans(whole, messages, learned, tokenizer, tools)
    if spans is None and _is_marked(tokenizer):
        return _label_marked(whole, messages, tokenizer, tools)
    if spans is None:
        spans = _probed_spans(whole, messages, learned, tokenizer, tools)
    if not tokenizer.is_fast:
        return _label_pieces(whole, spans, tokenizer)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = encoded["input_ids"]
    if not all(_begins_a_token(whole, start, ids, tokenizer) for start, _ in spans):
        return _label_pieces(whole, spans, tokenizer)
    labels = [
        token if any(start <= at < end for start, end in spans) else IGNORED
        for token, (at, _) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    return ids, labels


def _begins_a_token(whole: str, start: int, ids: list[int], tokenizer: Any) -> bool:
    """Whether the prompt's own tokens end where an answer starts.

    A space before it is part of the answer's first token in many vocabularies, which the model
    would then neither learn nor be asked for.
    """
    if not start or not (whole[start - 1] == " " or whole[start - 1].isalnum()):
        return True
    before: list[int] = tokenizer(whole[:start], add_special_tokens=False)["input_ids"]
    return ids[: len(before)] == before


def learns(message: Message) -> bool:
    """Whether a turn of the assistant is learned."""
    return message.get(WEIGHT) != 0


def _answers(messages: Sequence[Message]) -> list[int]:
    return [at for at, message in enumerate(messages) if message["role"] == "assistant"]


def _calls(message: Message) -> str:
    """An answer as text; calls of tools as JSON, one a line."""
    calls = [
        json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls") or ()
    ]
    return "\n".join([*filter(None, [message["content"]]), *calls])


def _check_tools(
    whole: str, messages: Sequence[Message], tokenizer: Any, tools: Sequence[Tool] | None
) -> None:
    """A template that leaves tools or calls out would train on something else than the data."""
    called = [
        call["function"]["name"] for message in messages for call in message.get("tool_calls") or ()
    ]
    lost = next((name for name in called if name not in whole), None)
    if tools and whole == chat_text(messages, tokenizer):
        lost = "the list of tools"
    if lost is not None:
        raise RunError(
            TEMPLATE_REFUSES,
            f"the chat template leaves {lost} out, so the model would not learn to call tools: set"
            " tokenizer.chatTemplate to plain, chatml or the text of one that renders tools",
        )


def _added_spans(
    whole: str,
    messages: Sequence[Message],
    turns: Sequence[int],
    tokenizer: Any,
    tools: Sequence[Tool] | None,
) -> list[Span] | None:
    """Turns of the assistant as what one more message adds; None where that isn't so."""
    spans: list[Span] = []
    for turn in turns:
        try:
            before = chat_text(messages[:turn], tokenizer, tools, answer_follows=True)
            through = chat_text(messages[: turn + 1], tokenizer, tools)
        except RunError:
            # A template may refuse a chat that is cut short.
            return None
        if not (whole.startswith(through) and through.startswith(before)):
            return None
        spans.append((len(before), len(through)))
    return spans


def _probed_spans(
    whole: str,
    messages: Sequence[Message],
    turns: Sequence[int],
    tokenizer: Any,
    tools: Sequence[Tool] | None,
) -> list[Span]:
    """Turns of the assistant as what changes with the answer, and the mark that ends them.

    A turn that the template leaves out has nothing to learn.
    """
    spans: list[Span] = []
    for turn in turns:
        start, end = _changed(whole, messages, turn, tokenizer, tools)
        if start >= len(whole):
            continue
        alone = messages[: turn + 1]
        mark = tokenizer.eos_token or ""
        # A template may refuse a chat that is cut short, such as one without any turn.
        with contextlib.suppress(RunError):
            before = chat_text(messages[:turn], tokenizer, tools, answer_follows=True)
            if whole.startswith(before):
                # What stands before the answer and not in its prompt, the model must say itself.
                start = min(start, len(before))
        with contextlib.suppress(RunError):
            through = chat_text(alone, tokenizer, tools)
            mark = through[_changed(through, alone, turn, tokenizer, tools)[1] :]
        spans.append((start, end + _shared(mark, whole[end:], tokenizer)))
    return spans


def _shared(mark: str, rest: str, tokenizer: Any) -> int:
    """How much of a mark a text begins with, in whole tokens: what follows another end of the chat
    may begin with the same character.
    """
    shared = _common(mark, rest)
    if shared == len(mark) or not tokenizer.is_fast:
        return shared
    encoded = tokenizer(mark, add_special_tokens=False, return_offsets_mapping=True)
    return max((end for _, end in encoded["offset_mapping"] if end <= shared), default=0)


def _changed(
    text: str,
    messages: Sequence[Message],
    turn: int,
    tokenizer: Any,
    tools: Sequence[Tool] | None,
) -> Span:
    """Where a text differs from those with another answer in a turn's place."""
    others = [
        chat_text(
            [*messages[:turn], {"role": "assistant", "content": probe}, *messages[turn + 1 :]],
            tokenizer,
            tools,
        )
        for probe in PROBES
    ]
    start = min(_common(text, other) for other in others)
    kept = min(_common(text[start:][::-1], other[start:][::-1]) for other in others)
    return start, len(text) - kept


def _common(ours: str, theirs: str) -> int:
    """How many characters two texts begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )


def _is_marked(tokenizer: Any) -> bool:
    plain = str(tokenizer.chat_template).replace("{%-", "{%").replace("-%}", "%}")
    return tokenizer.is_fast and "{% generation %}" in plain


def _label_marked(
    whole: str, messages: Sequence[Message], tokenizer: Any, tools: Sequence[Tool] | None
) -> tuple[list[int], list[int]]:
    """Label what the template itself marks with {% generation %}, but for turns without weight."""
    encoded = tokenizer.apply_chat_template(
        as_taken(messages, str(tokenizer.chat_template)),
        tools=list(tools) if tools else None,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids: list[int] = encoded["input_ids"]
    labels = [
        token if marked else IGNORED
        for token, marked in zip(ids, encoded["assistant_masks"], strict=True)
    ]
    others = [at for at in _answers(messages) if not learns(messages[at])]
    if not others:
        return ids, labels
    found = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    marked = _marked_spans(labels, found["offset_mapping"])
    answers = _answers(messages)
    if len(marked) == len(answers):
        spans = [span for span, at in zip(marked, answers, strict=True) if at in others]
    else:
        spans = _probed_spans(whole, messages, others, tokenizer, tools)
    return ids, [
        IGNORED if any(start <= at < end for start, end in spans) else label
        for label, (at, _) in zip(labels, found["offset_mapping"], strict=True)
    ]


def _marked_spans(labels: Sequence[int], offsets: Sequence[Span]) -> list[Span]:
    """Where labels stand in the text, those that follow each other together."""
    spans: list[Span] = []
    before = IGNORED
    for label, (start, end) in zip(labels, offsets, strict=True):
        if label != IGNORED:
            if before == IGNORED:
                spans.append((start, end))
            else:
                spans[-1] = (spans[-1][0], end)
        before = label
    return spans


def _label_pieces(whole: str, spans: list[Span], tokenizer: Any) -> tuple[list[int], list[int]]:
    """For a tokenizer that can't tell where tokens start: each part of the text by itself."""
    ids: list[int] = []
    labels: list[int] = []
    at = 0
    for start, end in [*spans, (len(whole), len(whole))]:
        for text, learned in ((whole[at:start], False), (whole[start:end], True)):
            piece: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += piece
            labels += piece if learned else [IGNORED] * len(piece)
        at = end
    return ids, labels

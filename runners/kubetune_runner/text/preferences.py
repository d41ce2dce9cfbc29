"""Preferences become token ids: prompt and answers apart, since loss is computed on answers alone.

The trainers of trl would do this too; here prompts end where generation starts, as for other
rows, and what becomes of each row is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.rows import DatasetFormat

from kubetune_runner.data.preferences import Row, Text, pair_of, rated_of
from kubetune_runner.data.spoken import spoken_of
from kubetune_runner.data.verdicts import Place, fault_of
from kubetune_runner.hidden import find_hidden
from kubetune_runner.text.chats import chat_text, naming, prompt_text
from kubetune_runner.text.encoding import EncodedRows, closed, prompt_token_ids


@dataclass(frozen=True)
class EncodedPair:
    """A prompt and two answers as token ids; the end token is part of the answers."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


@dataclass(frozen=True)
class EncodedRated:
    """A prompt and an answer as token ids, and whether the answer is good."""

    prompt_ids: list[int]
    completion_ids: list[int]
    label: bool


def encode_pairs(
    rows: Sequence[Row],
    columns: ColumnMapping,
    tokenizer: Any,
    max_length: int,
    places: Sequence[Place] | None = None,
    *,
    cut: bool,
    refuse_hidden: bool = False,
) -> EncodedRows[EncodedPair]:
    """Encode rows of format preference.

    Answers are cut to ``max_length`` tokens with their prompt or, without ``cut``, pairs with a
    longer one left out. With ``refuse_hidden`` rows of which the template doesn't show everything
    raise RunError. Raises RunError ChatTemplateMissing, ChatTemplateUnsupported or PartsHidden.
    """
    result = EncodedRows[EncodedPair]()
    kept: list[EncodedPair] = []
    where = places or [None] * len(rows)
    _count_hidden(result, rows, "preference", columns, tokenizer, where, refuse_hidden)
    for row, place in zip(rows, where, strict=True):
        if _left_out(row, "preference", columns, result):
            continue
        pair = pair_of(row, columns)
        with naming(place):
            prompt, (chosen, rejected) = _split(
                pair.prompt, [pair.chosen, pair.rejected], tokenizer
            )
        if chosen == rejected:
            # What tells them apart isn't shown by the chat template.
            result.unusable += 1
            result.note("alike", f"{place or 'a row'}: both answers are the same text; left out")
            continue
        room = max_length - len(prompt)
        too_long = max(len(chosen), len(rejected)) > room
        if too_long and not cut:
            result.cut_away += 1
            continue
        pair_kept = EncodedPair(prompt, chosen[: max(room, 0)], rejected[: max(room, 0)])
        if pair_kept.chosen_ids == pair_kept.rejected_ids:
            # Nothing is left of an answer, or of the difference.
            result.cut_away += 1
            continue
        result.cut += too_long
        kept.append(pair_kept)
    result.rows, result.used = kept, len(kept)
    return result


def encode_rated(
    rows: Sequence[Row],
    columns: ColumnMapping,
    tokenizer: Any,
    max_length: int,
    places: Sequence[Place] | None = None,
    *,
    refuse_hidden: bool = False,
) -> EncodedRows[EncodedRated]:
    """Encode rows of format unpairedPreference, as ``encode_pairs`` does pairs."""
    result = EncodedRows[EncodedRated]()
    kept: list[EncodedRated] = []
    where = places or [None] * len(rows)
    _count_hidden(result, rows, "unpairedPreference", columns, tokenizer, where, refuse_hidden)
    for row, place in zip(rows, where, strict=True):
        if _left_out(row, "unpairedPreference", columns, result):
            continue
        rated = rated_of(row, columns)
        with naming(place):
            prompt, (answer,) = _split(rated.prompt, [rated.completion], tokenizer)
        room = max_length - len(prompt)
        if room < 1:
            result.cut_away += 1
            continue
        result.cut += len(answer) > room
        kept.append(EncodedRated(prompt, answer[:room], rated.label))
    result.rows, result.used = kept, len(kept)
    return result


def _count_hidden(
    result: EncodedRows[Any],
    rows: Sequence[Row],
    format: DatasetFormat,
    columns: ColumnMapping,
    tokenizer: Any,
    places: Sequence[Place | None],
    refuse: bool,
) -> None:
    """Count the rows that have parts which their text doesn't show."""
    spoken = (
        (place, spoken_of(row, format, columns))
        for row, place in zip(rows, places, strict=True)
        if fault_of(row, format, columns) is None
    )
    hidden = find_hidden(spoken, tokenizer, refuse=refuse)
    result.hidden = hidden.count
    result.note("hidden", hidden.first)


def _left_out(
    row: Row, format: DatasetFormat, columns: ColumnMapping, result: EncodedRows[Any]
) -> bool:
    """Count a row that nothing can be learned from."""
    fault = fault_of(row, format, columns)
    if fault is None:
        return False
    result.empty += fault.empty
    result.unusable += not fault.empty
    return True


def _split(prompt: Text, answers: list[Text], tokenizer: Any) -> tuple[list[int], list[list[int]]]:
    """Token ids of the prompt, and of each answer that follows it."""
    is_text = isinstance(prompt, str)
    if isinstance(prompt, str):
        start, wholes = prompt, [f"{prompt}{answer}" for answer in answers]
        ids, *joint = prompt_token_ids(tokenizer, [start, *wholes])
    else:
        chats = [[*prompt, *answer] for answer in answers if not isinstance(answer, str)]
        start = prompt_text(chats[0], len(prompt), tokenizer)
        wholes = [chat_text(chat, tokenizer) for chat in chats]
        ids, *joint = tokenizer([start, *wholes], add_special_tokens=False)["input_ids"]
    if not all(each[: len(ids)] == ids for each in joint):
        if not all(whole.startswith(start) for whole in wholes):
            # A chat template that renders a prompt differently once it is answered.
            shared = min(_common(ids, each) for each in joint)
            return ids[:shared], [each[shared:] for each in joint]
        # Joint text has other tokens at the border; generation starts from the prompt's own.
        rests = [whole[len(start) :] for whole in wholes]
        joint = [[*ids, *each] for each in tokenizer(rests, add_special_tokens=False)["input_ids"]]
    found = [each[len(ids) :] for each in joint]
    return ids, [closed(each, tokenizer) for each in found] if is_text else found


def _common(ours: list[int], theirs: list[int]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )

"""Preferences become token ids: prompt and answers apart, since loss is computed on answers alone.

The trainers of trl would do this too; here prompts end where generation starts, as for other
rows, and what becomes of each row is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kubetune.api.dataset import ColumnMapping, DatasetFormat

from kubetune_runner.chats import chat_text
from kubetune_runner.data.preferences import Row, Text, pair_of, rated_of
from kubetune_runner.data.verdicts import Place, fault_of
from kubetune_runner.encoding import EncodedRows, end_of, naming, prompt_token_ids


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
) -> EncodedRows[EncodedPair]:
    """Encode rows of format preference.

    Answers are cut to ``max_length`` tokens with their prompt or, without ``cut``, pairs with a
    longer one left out. Raises RunError ChatTemplateMissing or ChatTemplateUnsupported.
    """
    result = EncodedRows[EncodedPair]()
    for row, place in zip(rows, places or [None] * len(rows), strict=True):
        if _left_out(row, "preference", columns, result):
            continue
        pair = pair_of(row, columns)
        with naming(place):
            prompt, (chosen, rejected) = _split(
                pair.prompt, [pair.chosen, pair.rejected], tokenizer
            )
        room = max_length - len(prompt)
        too_long = max(len(chosen), len(rejected)) > room
        if too_long and not cut:
            result.cut_away += 1
            continue
        kept = EncodedPair(prompt, chosen[: max(room, 0)], rejected[: max(room, 0)])
        if kept.chosen_ids == kept.rejected_ids:
            # Nothing is left of an answer, or of the difference.
            result.cut_away += 1
            continue
        result.cut += too_long
        result.rows.append(kept)
    return result


def encode_rated(
    rows: Sequence[Row],
    columns: ColumnMapping,
    tokenizer: Any,
    max_length: int,
    places: Sequence[Place] | None = None,
) -> EncodedRows[EncodedRated]:
    """Encode rows of format unpairedPreference, as ``encode_pairs`` does pairs."""
    result = EncodedRows[EncodedRated]()
    for row, place in zip(rows, places or [None] * len(rows), strict=True):
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
        result.rows.append(EncodedRated(prompt, answer[:room], rated.label))
    return result


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
    if isinstance(prompt, str):
        start, wholes = prompt, [f"{prompt}{answer}" for answer in answers]
        ids, *joint = prompt_token_ids(tokenizer, [start, *wholes])
        joint = [[*each, *end_of(tokenizer)] for each in joint]
    else:
        start = chat_text(prompt, tokenizer, answer_follows=True)
        wholes = [chat_text([*prompt, *answer], tokenizer) for answer in _chats(answers)]
        ids, *joint = tokenizer([start, *wholes], add_special_tokens=False)["input_ids"]
    if all(each[: len(ids)] == ids for each in joint):
        return ids, [each[len(ids) :] for each in joint]
    if all(whole.startswith(start) for whole in wholes):
        # Joint text has other tokens at the border; generation starts from the prompt's own.
        rests = [whole[len(start) :] for whole in wholes]
        alone: list[list[int]] = tokenizer(rests, add_special_tokens=False)["input_ids"]
        end = end_of(tokenizer) if isinstance(prompt, str) else []
        return ids, [[*each, *end] for each in alone]
    # A chat template that renders a prompt differently once it is answered.
    shared = min(_common(ids, each) for each in joint)
    return ids[:shared], [each[shared:] for each in joint]


def _chats(answers: list[Text]) -> Iterator[list[dict[str, str]]]:
    return (answer for answer in answers if not isinstance(answer, str))


def _common(ours: list[int], theirs: list[int]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )

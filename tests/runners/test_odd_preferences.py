"""Odd preferences: prompt and answers that train, decoded again, are what the row says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from odd_chats import TEMPLATES, told
from odd_data import (
    DRAWN,
    MANY,
    UNHURRIED_SECONDS,
    Laboratory,
    Row,
    make_laboratory,
)
from odd_preferences import OWN, check, files

__all__ = ["make_laboratory"]

ALIKE: dict[str, tuple[str, Row, bool]] = {
    # Format, a row, and whether it trains.
    "an end": ("preference", {"prompt": "q", "chosen": "a", "rejected": "a<eos>"}, False),
    "an end first": ("preference", {"prompt": "q", "chosen": "a<eos>", "rejected": "a"}, False),
    "without a prompt": ("preference", {"chosen": "q a", "rejected": "q a<eos>"}, False),
    "two ends": ("preference", {"prompt": "q", "chosen": "a", "rejected": "a<eos><eos>"}, True),
    "an end within": ("preference", {"prompt": "q", "chosen": "a", "rejected": "a<eos> "}, True),
    "an end alone": ("preference", {"prompt": "q", "chosen": "a", "rejected": "<eos>"}, True),
    "ends": ("preference", {"prompt": "q", "chosen": "<eos>", "rejected": "<eos><eos>"}, True),
    "an answer of an end": ("promptCompletion", {"prompt": "q", "completion": "<eos>"}, True),
    "a rated end": ("unpairedPreference", {"prompt": "q", "completion": "<eos>", "label": 1}, True),
    "a text of an end": ("text", {"text": "<eos>"}, True),
}


@pytest.mark.parametrize("case", ALIKE)
def test_an_end_that_training_puts_there_is_no_difference(
    laboratory: Laboratory, case: str
) -> None:
    format, row, trains = ALIKE[case]
    objective = {"preference": "dpo", "unpairedPreference": "kto"}.get(format, "sft")
    good = {name: "more" if name == "rejected" else value for name, value in row.items()}
    rows = [good, row, good] if format == "preference" else [row]
    content = "".join(json.dumps(each) + "\n" for each in rows).encode()
    training = {"objective": objective} | ({objective: OWN[objective]} if objective in OWN else {})
    found = laboratory.find(content, dataset={"format": format}, training=training)
    found.check_agreed()
    assert len(found.rows) == len(rows) - (not trains)
    assert told(found, "sees alike") == (set() if trains else {2})


def test_rows_that_train_alike_repeat(laboratory: Laboratory) -> None:
    """An end that a text has itself makes no other row of it, nor one that isn't held out."""
    rows = [{"prompt": "q", "completion": text} for text in ("a", "b<eos>", "a<eos>", "b", "a ")]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = laboratory.find(content, dataset={"format": "promptCompletion"})
    found.check_agreed()
    assert found.checks["duplicateRows"] == 2
    assert told(found, "repeat an earlier row") == {3, 4}


def test_answers_that_differ_in_what_is_not_shown(laboratory: Laboratory) -> None:
    """Such a pair teaches nothing, which isn't the fault of maxLength."""
    asked = {"role": "user", "content": "near?"}
    plain = {"role": "assistant", "content": "no"}
    thought = plain | {"reasoning_content": "hm"}
    alike = {"chosen": [asked, thought], "rejected": [asked, plain]}
    whole = {"chosen": [asked, plain], "rejected": [asked, plain | {"content": "yes"}]}
    for rows in ([whole, alike], [alike]):
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        found = laboratory.find(
            content, dataset={"format": "preference"}, template=TEMPLATES["plain"],
            training={"objective": "dpo", "dpo": OWN["dpo"]},
        )  # fmt: skip
        if len(rows) == 1:
            assert found.inspection.reason == "NoUsableRows"
            assert "sees both answers of each pair alike" in str(found.inspection.message)
            assert found.refusal is not None
            assert "1 don't fit its format" in found.refusal.message
            continue
        found.check_agreed()
        assert (found.checks["unusableRows"], len(found.rows)) == (1, 1)
        assert told(found, "sees alike") == {2}


@DRAWN
@given(drawn=files())
def test_preferences(laboratory: Laboratory, drawn: tuple[Any, ...]) -> None:
    check(laboratory, drawn)


@pytest.mark.exhaustive
@pytest.mark.timeout(UNHURRIED_SECONDS)
@settings(MANY, max_examples=1000)
@given(drawn=files())
def test_many_preferences(laboratory: Laboratory, drawn: tuple[Any, ...]) -> None:
    check(laboratory, drawn)

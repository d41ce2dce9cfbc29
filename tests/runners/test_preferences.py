"""Rows of preferences: what is a pair, what is left out and why, and the token ids they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.kinds.dataset.spec import ColumnMapping
from kubetune.api.run.plan import DatasetPlan
from kubetune_runner.data import load
from kubetune_runner.data.preferences import Pair, Rated, UnusableRowError, pair_of, rated_of
from kubetune_runner.errors import RunError
from kubetune_runner.inspection.dataset import inspect_dataset
from kubetune_runner.text.preferences import encode_pairs, encode_rated

NAMES = ColumnMapping()


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASK, YES, NO = turn("user", "Well?"), turn("assistant", "Yes."), turn("assistant", "No.")

PAIRS: dict[str, tuple[dict[str, Any], Pair]] = {
    "texts": (
        {"prompt": "Well?", "chosen": " Yes.", "rejected": " No."},
        Pair("Well?", " Yes.", " No."),
    ),
    "texts that share their beginning": (
        {"chosen": "Well? It is so", "rejected": "Well? It isn't"},
        Pair("Well? It", " is so", " isn't"),
    ),
    "texts that share nothing": ({"chosen": "Yes", "rejected": "No"}, Pair("", "Yes", "No")),
    "a text that goes on": ({"chosen": "a b", "rejected": "a"}, Pair("", "a b", "a")),
    "a number": ({"prompt": "1+1", "chosen": 2, "rejected": 3}, Pair("1+1", "2", "3")),
    "whole chats": ({"chosen": [ASK, YES], "rejected": [ASK, NO]}, Pair([ASK], [YES], [NO])),
    "whole chats beside a prompt": (
        {"prompt": "Well?", "chosen": [ASK, YES], "rejected": [ASK, NO]},
        Pair([ASK], [YES], [NO]),
    ),
    "answers after several turns": (
        {"chosen": [ASK, NO, ASK, YES], "rejected": [ASK, NO, ASK, NO]},
        Pair([ASK, NO, ASK], [YES], [NO]),
    ),
    "a chat that goes on": (
        {"chosen": [ASK, YES], "rejected": [ASK, YES, ASK, NO]},
        Pair([ASK], [YES], [YES, ASK, NO]),
    ),
    "a chat before texts": (
        {"prompt": [ASK], "chosen": "Yes.", "rejected": "No."},
        Pair([ASK], [YES], [NO]),
    ),
    "a text before turns": (
        {"prompt": "Well?", "chosen": [YES], "rejected": [NO]},
        Pair([ASK], [YES], [NO]),
    ),
}
UNUSABLE_PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "equal": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "'rejected' equals 'chosen'"),
    "equal chats": ({"chosen": [ASK, YES], "rejected": [ASK, YES]}, "'rejected' equals"),
    "nothing chosen": ({"prompt": "a", "chosen": None, "rejected": "b"}, "'chosen' is empty"),
    "blank": ({"prompt": "a", "chosen": "b", "rejected": " \n"}, "'rejected' is empty"),
    "a map": ({"prompt": "a", "chosen": {}, "rejected": "b"}, "'chosen' is a map, not text"),
    "chat and text": ({"chosen": [ASK, YES], "rejected": "No."}, "is text and 'chosen' is a chat"),
    "other prompts": (
        {"chosen": [ASK, YES], "rejected": [turn("user", "So?"), NO]},
        "doesn't begin with the turns of 'chosen'",
    ),
    "answers without a prompt": ({"chosen": [YES], "rejected": [NO]}, "'prompt' is empty"),
    "no answer": ({"chosen": [ASK, YES], "rejected": [ASK]}, "doesn't end with a turn of the"),
    "an empty answer": (
        {"chosen": [ASK, YES], "rejected": [ASK, turn("assistant", " ")]},
        "ends with an empty turn",
    ),
    "an unknown role": ({"chosen": [ASK, YES], "rejected": [turn("bot", "No.")]}, "role"),
    "a picture": (
        {"chosen": [ASK, YES], "rejected": [ASK, {"role": "assistant", "content": [1]}]},
        "content isn't text",
    ),
}
RATED: dict[str, tuple[dict[str, Any], Rated]] = {
    "texts": ({"prompt": "a", "completion": "b", "label": True}, Rated("a", "b", True)),
    "a label of csv": (
        {"prompt": "a", "completion": "b", "label": "False"},
        Rated("a", "b", False),
    ),
    "a number": ({"prompt": "a", "completion": "b", "label": 1}, Rated("a", "b", True)),
    "chats": (
        {"prompt": [ASK], "completion": [YES], "label": False},
        Rated([ASK], [YES], False),
    ),
    "a chat before text": (
        {"prompt": [ASK], "completion": "Yes.", "label": True},
        Rated([ASK], [YES], True),
    ),
}
UNUSABLE_RATED: dict[str, tuple[dict[str, Any], str]] = {
    "no label": ({"prompt": "a", "completion": "b", "label": None}, "neither true nor false"),
    "stars": ({"prompt": "a", "completion": "b", "label": 5}, "neither true nor false"),
    "a word": ({"prompt": "a", "completion": "b", "label": "good"}, "neither true nor false"),
    "no prompt": ({"prompt": "", "completion": "b", "label": True}, "'prompt' is empty"),
    "a whole chat": (
        {"prompt": "Well?", "completion": [ASK, YES], "label": True},
        "begins with a turn of user",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pairs(case: str) -> None:
    row, pair = PAIRS[case]
    assert pair_of(row, NAMES) == pair


@pytest.mark.parametrize("case", UNUSABLE_PAIRS)
def test_rows_that_are_no_pair_say_why(case: str) -> None:
    row, message = UNUSABLE_PAIRS[case]
    with pytest.raises(UnusableRowError, match=message):
        pair_of(row, NAMES)


@pytest.mark.parametrize("case", RATED)
def test_rated_answers(case: str) -> None:
    row, rated = RATED[case]
    assert rated_of(row, NAMES) == rated


@pytest.mark.parametrize("case", UNUSABLE_RATED)
def test_rows_that_are_not_rated_say_why(case: str) -> None:
    row, message = UNUSABLE_RATED[case]
    with pytest.raises(UnusableRowError, match=message):
        rated_of(row, NAMES)


def plan_of(folder: Path, rows: list[dict[str, Any]], format: str, **over: Any) -> DatasetPlan:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"directory": str(folder), "glob": "*.jsonl", "format": "jsonl"}
    document = {"name": "pairs", "files": files, "format": format, "columns": {}, "splits": {}}
    return DatasetPlan.model_validate(document | over)


def problems(plan: DatasetPlan) -> list[tuple[int | None, str | None, str]]:
    found = inspect_dataset(plan, None, None, None, {}).problems
    return [(problem.row, problem.field, problem.message) for problem in found]


GOOD = {"prompt": "Well?", "chosen": "Yes.", "rejected": "No."}


def test_an_inspection_reports_what_training_leaves_out(tmp_path: Path) -> None:
    equal = {"prompt": "c", "chosen": "d", "rejected": "d"}
    rows = [GOOD, equal, {"prompt": "a", "rejected": "b"}, GOOD | {"prompt": "So?"}]
    assert problems(plan_of(tmp_path, rows, "preference")) == [
        (2, "rejected", "'rejected' equals 'chosen', so there is nothing to prefer; objectives"
         " that learn preferences leave the row out"),
        (3, "chosen", "'chosen' is missing; objectives that learn preferences leave the row out"),
    ]  # fmt: skip


def test_a_missing_prompt_column_is_told_once(tmp_path: Path) -> None:
    rows = [{"question": each, "chosen": "b", "rejected": "c"} for each in ("d", "e", "f")]
    (row, field, message), told = problems(plan_of(tmp_path, rows, "preference"))
    assert (row, field) == (None, "prompt")
    assert "set spec.columns.prompt" in message
    assert "doesn't show (column 'question')" in told[2]
    mapped = plan_of(tmp_path, rows, "preference", columns={"prompt": "question"})
    assert problems(mapped) == []


def test_labels_by_another_name(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "good": True}]
    with pytest.raises(RunError, match=r"spec\.columns\.label") as caught:
        load(plan_of(tmp_path, rows, "unpairedPreference"), None)
    assert caught.value.reason == "ColumnMissing"
    mapped = plan_of(tmp_path, rows, "unpairedPreference", columns={"label": "good"})
    assert problems(mapped) == []


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_prompts_and_answers_make_the_text_again(tokenizer: Any) -> None:
    rows = [row for row, _ in PAIRS.values()]
    encoded = encode_pairs(rows, NAMES, tokenizer, 256, cut=True).rows
    assert len(encoded) == len(rows)
    texts = tokenizer.decode(encoded[0].prompt_ids + encoded[0].chosen_ids)
    assert "Well? Yes." in texts
    end = tokenizer.eos_token_id
    for row, pair in zip(encoded, PAIRS.values(), strict=True):
        if isinstance(pair[1].prompt, str):
            assert (row.chosen_ids[-1], row.rejected_ids[-1]) == (end, end)
        else:
            turns = [*pair[1].prompt, *pair[1].chosen]
            whole = tokenizer.apply_chat_template(turns, tokenize=False)
            assert tokenizer.decode(row.prompt_ids + row.chosen_ids) == whole


def test_long_pairs_are_cut_or_left_out(tokenizer: Any) -> None:
    long = GOOD | {"rejected": "No. " * 40}
    far = {"prompt": "Well? " * 40, "chosen": "Yes.", "rejected": "No."}
    late = {"prompt": "a", "chosen": "b " * 40 + "c", "rejected": "b " * 40 + "d"}
    rows = [GOOD, long, far, late, GOOD | {"rejected": ""}]
    cut = encode_pairs(rows, NAMES, tokenizer, 24, cut=True)
    # Nothing is left of far's answers, nor of the difference in late.
    assert (len(cut.rows), cut.cut, cut.cut_away, cut.empty) == (2, 1, 2, 1)
    assert len(cut.rows[1].prompt_ids + cut.rows[1].rejected_ids) == 24
    whole = encode_pairs(rows, NAMES, tokenizer, 24, cut=False)
    assert (len(whole.rows), whole.cut, whole.cut_away, whole.empty) == (1, 0, 3, 1)


def test_long_rated_answers_are_cut(tokenizer: Any) -> None:
    rows = [
        {"prompt": "a", "completion": "b " * 40, "label": True},
        {"prompt": "a " * 40, "completion": "b", "label": True},
        {"prompt": "a", "completion": "b", "label": "?"},
    ]
    found = encode_rated(rows, NAMES, tokenizer, 24)
    assert (len(found.rows), found.cut, found.cut_away, found.unusable) == (1, 1, 1, 1)
    assert len(found.rows[0].prompt_ids + found.rows[0].completion_ids) == 24


def test_a_chat_needs_a_template(tokenizer: Any) -> None:
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(RunError) as caught:
            encode_pairs([PAIRS["whole chats"][0]], NAMES, tokenizer, 64, cut=True)
        assert caught.value.reason == "ChatTemplateMissing"
    finally:
        tokenizer.chat_template = template

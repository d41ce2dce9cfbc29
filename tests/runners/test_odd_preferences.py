"""Odd preferences: prompt and answers that train, decoded again, are what the row says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_chats import BROKEN, TEMPLATES, WORDS, chats, lost, told
from odd_data import (
    BOS,
    DRAWN,
    EOS,
    MANY,
    TEXTS,
    UNHURRIED_SECONDS,
    VALUES,
    Laboratory,
    Row,
    ended,
    json_document,
    json_lines,
    make_laboratory,
)

__all__ = ["make_laboratory"]

OWN: dict[str, Row] = {
    "dpo": {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0},
    "kto": {"beta": 0.1, "lossType": "kto", "desirableWeight": 1, "undesirableWeight": 1},
}


def text_of(value: Any) -> str | None:
    """A cell as text; None for what is none or says nothing."""
    if value is None or isinstance(value, (list, dict)):
        return None
    if isinstance(value, str):
        return value if value.strip() else None
    return str(value).lower() if isinstance(value, bool) else repr(value)


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, Row, Any]:
    """A row of texts: its format, itself, and prompt, answers and label where it has all."""
    prompt, answer = draw(TEXTS | VALUES), draw(TEXTS | VALUES)
    said = text_of(answer)
    if draw(st.booleans()):
        label = draw(st.sampled_from([True, False, "true", " False", 1, 0, "0", None, "bad", 2]))
        row = {"prompt": prompt, "completion": answer, "label": label}
        meant = {"true": True, "1": True, "false": False, "0": False}.get(
            str(label).strip().lower()
        )
        whole = None not in (text_of(prompt), said, meant)
        return "unpairedPreference", row, (text_of(prompt), [said], meant) if whole else None
    other = draw(TEXTS | VALUES)
    if said is not None and not draw(st.integers(0, 5)):
        # Which training puts there anyway.
        other = said + EOS
    row = {"prompt": prompt, "chosen": answer, "rejected": other}
    if not draw(st.integers(0, 3)):
        del row["prompt"]
        prompt = None
    if isinstance(prompt, (list, dict)) and prompt != []:
        return "preference", row, None
    answers = [said, text_of(other)]
    if said is None or answers[1] is None or ended(said) == ended(answers[1]):
        return "preference", row, None
    return "preference", row, (text_of(prompt) or "", answers, None)


@st.composite
def spoken(draw: st.DrawFn) -> tuple[str, Row, Any]:
    """A row of chats, and what its answers say."""
    chat = draw(chats(tools=False, odd=False))
    turns = chat.row.get("messages") or chat.row["conversations"]
    last = dict(turns[-1])
    name = "value" if "value" in last else "content"
    other = draw(WORDS)
    rejected = [*turns[:-1], {"role": "assistant", "content": other}]
    answer = last[name]
    answer = answer if isinstance(answer, str) else "".join(part["text"] for part in answer)
    before = [said for said in chat.said if said not in (answer, last.get("reasoning_content"))]
    if any("tool_calls" in t or "function_call" in t or t.get("from") == "function_call"
           for t in turns) or answer == other:  # fmt: skip
        # Calls are nothing for preferences; equal answers are, unless one was thought about.
        return "preference", {"chosen": turns, "rejected": rejected}, ...
    row: Row = {"chosen": turns, "rejected": rejected}
    if draw(st.booleans()):
        row["prompt"] = draw(st.sampled_from([None, "", "stands in no text"]))
        if row["prompt"]:
            before.append(row["prompt"])
    if draw(st.booleans()):
        row = {"prompt": turns[:-1], "completion": [last], "label": draw(st.booleans())}
        before = [said for said in before if said != "stands in no text"]
        return "unpairedPreference", row, (before, [chat.learned[-1:] + before], row["label"])
    return "preference", row, (before, [[*before, answer], [*before, other]], None)


@st.composite
def files(draw: st.DrawFn) -> tuple[Any, ...]:
    """Rows of one format in a file."""
    source = draw(st.sampled_from([texts, spoken]))
    drawn = draw(st.lists(source(), min_size=1, max_size=4))
    format = drawn[0][0]
    rows = [(row, said) for kind, row, said in drawn if kind == format]
    if not draw(st.integers(0, 4)):
        broken = draw(BROKEN)
        names = ["chosen", "rejected"] if format == "preference" else ["prompt", "completion"]
        rows.append(({names[0]: broken, names[1]: draw(BROKEN)}, ...))
    suffix = draw(st.sampled_from(["json", "jsonl"]))
    content, numbers = draw(
        (json_document if suffix == "json" else json_lines)([r for r, _ in rows])
    )
    template = draw(st.sampled_from(["shows all", *TEMPLATES]))
    return format, [said for _, said in rows], numbers, suffix, content, template


def check(laboratory: Laboratory, drawn: tuple[Any, ...]) -> None:
    format, rows, numbers, suffix, content, template = drawn
    objective = "dpo" if format == "preference" else "kto"
    found = laboratory.find(
        content, suffix, dataset={"format": format}, template=TEMPLATES[template],
        training={"objective": objective, objective: OWN[objective]},
    )  # fmt: skip
    if found.inspection.status == "failed":
        assert found.inspection.reason in ("NoUsableRows", "ColumnMissing")
        assert all(said in (None, ...) for said in rows), found.inspection.message
        if "alike" in str(found.inspection.message):
            # Which a job sees from the tokens alone.
            assert found.refusal is not None
            assert found.refusal.reason == "NoTrainableRows"
            return
        found.check_refused()
        return
    hidden, refused = told(found, "doesn't show"), told(found, "the chat template refuses")
    if found.refusal is not None:
        assert found.refusal.reason == "ChatTemplateUnsupported", found.refusal
        assert refused
        return
    assert not refused
    found.check_agreed()
    left_out = {p["row"] for p in found.problems if "leave the row out" in p["message"]}
    left_out |= told(found, "sees alike")
    used = [
        (number, said) for number, said in zip(numbers, rows, strict=True) if number not in left_out
    ]
    assert len(used) == len(found.rows)
    assert not [number for number, said in used if said is None]
    sure = {n for n, said in zip(numbers, rows, strict=True) if said not in (None, ...)}
    assert not sure & left_out
    for (number, said), row in zip(used, found.rows, strict=True):
        if said is ...:
            continue
        prompt, answers, label = said
        ids = [row.completion_ids] if objective == "kto" else [row.chosen_ids, row.rejected_ids]
        trained = [laboratory.decode([*row.prompt_ids, *each]) for each in ids]
        if label is not None:
            assert row.label == label
        if isinstance(prompt, str):
            assert trained == [BOS + ended(prompt + answer) for answer in answers]
            continue
        gone = [lost(parts, text) for parts, text in zip(answers, trained, strict=True)]
        assert not any(gone) or number in hidden, (gone, trained)
        if template == "shows all" and "stands in no text" not in prompt:
            assert number not in hidden


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

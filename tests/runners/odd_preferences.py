"""Odd preferences: rows of texts and of chats, what they say, and whether that is trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from hypothesis import strategies as st
from odd_chats import BROKEN, TEMPLATES, WORDS, chats, lost, told
from odd_data import (
    BOS,
    EOS,
    TEXTS,
    VALUES,
    Laboratory,
    Row,
    ended,
    json_document,
    json_lines,
)

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


FORMATS = st.sampled_from(["preference", "unpairedPreference"])
LABELS = {"true": True, "1": True, "false": False, "0": False}


def meant(format: str, row: Row) -> Any:
    """Prompt, answers and label of a row of texts; None where it hasn't all."""
    prompt = text_of(row.get("prompt"))
    if format == "unpairedPreference":
        label = LABELS.get(str(row.get("label")).strip().lower())
        answer = text_of(row["completion"])
        return None if None in (prompt, answer, label) else (prompt, [answer], label)
    given = row.get("prompt")
    if isinstance(given, (list, dict)) and given != []:
        return None
    answers = [text_of(row["chosen"]), text_of(row["rejected"])]
    if None in answers or len({ended(str(answer)) for answer in answers}) < 2:
        return None
    return prompt or "", answers, None


@st.composite
def texts(draw: st.DrawFn, format: str | None = None) -> tuple[str, Row, Any]:
    """A row of texts: its format, itself, and prompt, answers and label where it has all."""
    format = format or draw(FORMATS)
    prompt, answer = draw(TEXTS | VALUES), draw(TEXTS | VALUES)
    if format == "unpairedPreference":
        label = draw(st.sampled_from([True, False, "true", " False", 1, 0, "0", None, "bad", 2]))
        row = {"prompt": prompt, "completion": answer, "label": label}
        return "unpairedPreference", row, meant("unpairedPreference", row)
    other = draw(TEXTS | VALUES)
    if (said := text_of(answer)) is not None and not draw(st.integers(0, 5)):
        # Which training puts there anyway.
        other = said + EOS
    row = {"prompt": prompt, "chosen": answer, "rejected": other}
    if not draw(st.integers(0, 3)):
        del row["prompt"]
    return "preference", row, meant("preference", row)


@st.composite
def spoken(draw: st.DrawFn, format: str | None = None) -> tuple[str, Row, Any]:
    """A row of chats, and what its answers say."""
    format = format or draw(FORMATS)
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
        if format == "unpairedPreference":
            return format, {"prompt": turns[:-1], "completion": [last], "label": True}, ...
        return format, {"chosen": turns, "rejected": rejected}, ...
    row: Row = {"chosen": turns, "rejected": rejected}
    if draw(st.booleans()) and format == "preference":
        row["prompt"] = draw(st.sampled_from([None, "", "stands in no text"]))
        if row["prompt"]:
            before.append(row["prompt"])
    if format == "unpairedPreference":
        row = {"prompt": turns[:-1], "completion": [last], "label": draw(st.booleans())}
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


def check(
    laboratory: Laboratory,
    drawn: tuple[Any, ...],
    columns: Row | None = None,
    beside: Collection[int] = (),
) -> None:
    """What trains is what the rows say, or the row is told; rows ``beside`` have a column that
    nobody reads.
    """
    format, rows, numbers, suffix, content, template = drawn
    objective = "dpo" if format == "preference" else "kto"
    dataset = {"format": format, "columns": columns or {}}
    found = laboratory.find(
        content, suffix, dataset=dataset, template=TEMPLATES[template],
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
    assert {number for number, _ in used if number in beside} <= hidden
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
        if template == "shows all" and "stands in no text" not in prompt and number not in beside:
            assert number not in hidden

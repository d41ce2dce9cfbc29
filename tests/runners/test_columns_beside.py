"""Columns beside what a row trains on that belong to it: told by row, counted, refused if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import inspection_plan
from kubetune.api.kinds.inspection import DatasetInspection
from kubetune_runner import data
from kubetune_runner.errors import RunError
from kubetune_runner.inspection import run
from kubetune_runner.own_code import handover
from kubetune_runner.training.inputs import prepare
from odd_chats import TEMPLATES
from odd_data import Laboratory, Row, make_laboratory
from odd_preferences import OWN

from tests.runners.conftest import PlanFactory

__all__ = ["make_laboratory"]

TEXTS: Row = {"prompt": "Where is Rome?", "completion": "In Italy."}
PAIR: Row = {"prompt": "Where is Rome?", "chosen": "In Italy.", "rejected": "No idea."}
RATED = TEXTS | {"label": True}
TURNS = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
CHAT: Row = {"messages": TURNS}
CHATS: Row = {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "There."}]}
TOLD = [{"role": "system", "content": "Be brief."}]
SKY = [{"type": "function", "function": {"name": "sky", "parameters": {"type": "object"}}}]
CASES: dict[str, tuple[str, Row, Row, str | None]] = {
    # Format, a good row, what one has beside that, and the column that is told.
    "a system of pairs": ("preference", PAIR, {"system": "Be brief."}, "system"),
    "a question of pairs": ("preference", PAIR, {"question": "Who are you?"}, "question"),
    "a question that is in the prompt": ("preference", PAIR, {"question": "Where is Rome?"}, None),
    "a system of chats": ("preference", CHATS, {"system": "Be brief."}, "system"),
    "a system of a chat's turn": (
        "preference",
        {name: TOLD + turns for name, turns in CHATS.items()},
        {"system": "Be brief."},
        None,
    ),
    "another system than a chat's": (
        "messages",
        {"messages": TOLD + TURNS},
        {"system": "Be long."},
        "system",
    ),
    "an answer that has the word": ("messages", CHAT, {"system": "Here."}, "system"),
    "tools of pairs": ("preference", CHATS, {"tools": SKY}, "tools"),
    "tools as text": ("promptCompletion", TEXTS, {"tools": json.dumps(SKY)}, "tools"),
    "no tools": ("promptCompletion", TEXTS, {"tools": "[]", "system": " ", "images": []}, None),
    "tools in the prompt": (
        "promptCompletion",
        TEXTS | {"prompt": f"You have {json.dumps(SKY)}."},
        {"tools": json.dumps(SKY)},
        None,
    ),
    "a picture": ("messages", CHAT, {"images": ["a.png"]}, "images"),
    "a picture's bytes": ("promptCompletion", TEXTS, {"image": {"path": "a.png"}}, "image"),
    "a history": ("promptCompletion", TEXTS, {"history": [["a", "b"]]}, "history"),
    "no history": ("promptCompletion", TEXTS, {"history": []}, None),
    "an input": ("promptCompletion", TEXTS, {"input": "of old"}, "input"),
    "a context": ("unpairedPreference", RATED, {"context": "Europe"}, "context"),
    "capitals": ("promptCompletion", TEXTS, {"System ": "Be brief."}, "System "),
    "thoughts": ("promptCompletion", TEXTS, {"reasoning": "It was so."}, "reasoning"),
    "thoughts that are said": (
        "messages",
        {"messages": [TURNS[0], TURNS[1] | {"reasoning_content": "Hm."}]},
        {"reasoning_content": "Hm."},
        None,
    ),
    "a bad answer": ("promptCompletion", TEXTS, {"label": False}, "label"),
    "a good answer": ("promptCompletion", TEXTS, {"label": True}, None),
    "a bad chat": ("messages", CHAT, {"kto_tag": False}, "kto_tag"),
    "a margin": ("preference", PAIR, {"margin": 0.5}, "margin"),
    "settings of the template": (
        "messages",
        CHAT,
        {"chat_template_kwargs": {"enable_thinking": False}},
        "chat_template_kwargs",
    ),
    "a prompt beside a chat": ("messages", CHAT, {"prompt": "Where?"}, None),
    "another prompt beside a chat": ("messages", CHAT, {"prompt": "Why?"}, "prompt"),
    "parts of a text": ("text", {"text": "Q: a A: b"}, {"instruction": "a!"}, None),
    "a system of texts": ("text", {"text": "Q: a A: b"}, {"system": "Be brief."}, "system"),
    "notes": ("preference", PAIR, {"id": 7, "source": "x", "score": 0.1, "messages": TURNS}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_columns_beside(laboratory: Laboratory, tmp_path: Path, case: str) -> None:
    format, good, beside, column = CASES[case]
    rows = [good, good | beside, good]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    objective = {"preference": "dpo", "unpairedPreference": "kto"}.get(format, "sft")
    training = {"objective": objective} | ({objective: OWN[objective]} if objective in OWN else {})
    shows_all = TEMPLATES["shows all"]
    found = laboratory.find(
        content, dataset={"format": format}, training=training, template=shows_all
    )
    found.check_agreed()
    assert found.checks["hiddenPartRows"] == (column is not None)
    told = [p for p in found.problems if "doesn't show" in p["message"]]
    assert [problem["row"] for problem in told] == ([2] if column else [])
    assert not column or f"column {column!r}" in told[0]["message"]
    refusing = {"format": format, "refuseHidden": True}
    found = laboratory.find(content, dataset=refusing, training=training, template=shows_all)
    if column is None:
        assert found.refusal is None
        return
    assert found.refusal is not None
    assert found.refusal.reason == "PartsHidden"
    assert f"row 2 of file 'rows.jsonl': its training text doesn't show column {column!r}" in (
        found.refusal.message
    )


@pytest.mark.parametrize("case", ["a system of pairs", "a picture", "tools as text", "notes"])
def test_an_inspection_needs_no_tokenizer_for_that(make_plan: PlanFactory, case: str) -> None:
    format, good, beside, column = CASES[case]
    dataset = {"format": format, "splits": {"evaluationFraction": 0.0}}
    plan = make_plan(rows=[good, good | beside], held_out=[], dataset=dataset)
    outcome = run(inspection_plan("inspectDataset", dataset=plan.dataset.to_json()))
    checks = DatasetInspection.model_validate(outcome.summary).checks
    assert checks is not None
    assert checks.hidden_part_rows == (column is not None)


@pytest.mark.parametrize("case", ["a system of pairs", "an input", "a system of texts", "notes"])
def test_a_script_is_told_too(make_plan: PlanFactory, tmp_path: Path, case: str) -> None:
    format, good, beside, column = CASES[case]
    for refuse in (False, True):
        dataset: Row = {"format": format, "splits": {"evaluationFraction": 0.0}}
        if refuse:
            dataset["refuseHidden"] = True
        plan = make_plan(rows=[good, good | beside], held_out=[], dataset=dataset)
        loaded = data.load(plan.dataset, None)
        placed = list(loaded.train.placed())
        write: Any = (tmp_path, plan, "train", placed, [], None)
        if refuse and column:
            with pytest.raises(RunError, match=f"row 2 of .* column '{column}'"):
                handover.write_rows(*write)
            continue
        assert handover.write_rows(*write).rows.counts()["hidden"] == (column is not None)


def test_what_a_template_takes_is_the_users_choice(make_plan: PlanFactory) -> None:
    """Columns without a slot were left out on purpose."""
    rows = [TEXTS | {"system": "Be brief."}]
    dataset = {"format": "promptCompletion", "refuseHidden": True}
    prompt = {"prompt": "{system} {prompt}", "completion": "{completion}"}
    inputs = prepare(make_plan(rows=rows, held_out=[], dataset=dataset, prompt=prompt))
    assert (inputs.train.hidden, len(inputs.train.rows)) == (0, 1)

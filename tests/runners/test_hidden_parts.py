"""What a row has and the chat template doesn't show: told by row, counted, and refused if asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import (
    files_plan,
    inspection_plan,
    jsonl,
    model_files,
    tokenizer_json,
    write,
)
from kubetune.api.chat_templates import CHAT_TEMPLATES
from kubetune.api.inspection import DatasetInspection
from kubetune_runner import train
from kubetune_runner.errors import RunError
from kubetune_runner.inspection import run

from tests.runners.conftest import PlanFactory

Turn = dict[str, Any]
PHI = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + '<|end|>\n' }}"
    "{% elif m.role == 'assistant' %}{% generation %}"
    "{{ '<|assistant|>\n' + m.content + '<|end|>\n' }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""As Phi-3's: it knows no system turn."""
THINKS = PHI.replace(
    "|>\n' + m.content + '<|end|>\n' }}{% endg",
    "|>\n' + (m.thinking or '') + m.content + '<|end|>\n' }}{% endg",
)
USER, SAID = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}
SYSTEM = {"role": "system", "content": "h"}
"""Its text stands elsewhere, too."""
THOUGHT = SAID | {"reasoning_content": "hm"}
CASES: dict[str, tuple[str, list[Turn], str | None]] = {
    "all is shown": (PHI, [USER, SAID], None),
    "a system turn": (PHI, [SYSTEM, USER, SAID], "a turn of role system"),
    "a system turn that is shown": (CHAT_TEMPLATES["plain"], [SYSTEM, USER, SAID], None),
    "a system turn before the user's": (CHAT_TEMPLATES["gemma"], [SYSTEM, USER, SAID], None),
    "thoughts": (PHI, [USER, THOUGHT], "what a turn of the assistant thinks"),
    "thoughts that are shown": (THINKS, [USER, THOUGHT], None),
    "a name": (PHI, [USER | {"name": "Ann"}, SAID], "field name of a turn"),
    "a weight": (PHI, [USER, SAID | {"weight": 1}], "field weight of a turn"),
    "nulls": (PHI, [USER | {"name": None}, SAID | {"refusal": None, "tool_calls": []}], None),
    "ShareGPT": (
        PHI,
        [
            {"from": "system", "value": "be"},
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b"},
        ],
        "a turn of role system",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_job_counts_and_refuses(make_plan: PlanFactory, case: str) -> None:
    template, turns, part = CASES[case]
    rows = [{"messages": [USER, SAID]}, {"messages": turns}, {"messages": [USER, SAID, USER, SAID]}]
    over: dict[str, Any] = {"training": {"tokenizer": {"chatTemplate": template}}}
    plan = make_plan(rows=rows, held_out=rows[:1], dataset={"format": "messages"}, **over)
    inputs = train._prepare(plan)
    assert inputs.train.counts()["hidden"] == (part is not None)
    assert inputs.train.counts()["used"] == 3
    refusing = {"format": "messages", "refuseHidden": True}
    plan = make_plan(rows=rows, held_out=rows[:1], dataset=refusing, **over)
    if part is None:
        train._prepare(plan)
        return
    with pytest.raises(RunError, match=rf"row 2 of file 'train\.jsonl': .* {part}") as caught:
        train._prepare(plan)
    assert caught.value.reason == "PartsHidden"


@pytest.mark.parametrize("jinja", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_an_inspection_counts_the_same(tmp_path: Path, case: str, jinja: bool) -> None:
    template, turns, part = CASES[case]
    rows = [{"messages": [USER, SAID]}, {"messages": turns}, {"messages": "broken"}]
    found = inspected(tmp_path, template, rows, jinja)
    assert found.checks is not None
    assert found.checks.hidden_part_rows == (part is not None)
    told = [problem for problem in found.problems if "doesn't show" in problem.message]
    assert [problem.row for problem in told] == ([2] if part else [])
    assert not part or part in told[0].message


def test_an_inspection_tells_what_the_template_refuses(tmp_path: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}a"
    found = inspected(
        tmp_path, template, [{"messages": [USER, SAID]}, {"messages": [SYSTEM, USER, SAID]}], True
    )
    told = [problem for problem in found.problems if "refuses (no system)" in problem.message]
    assert [problem.row for problem in told] == [2]


def inspected(folder: Path, template: str, rows: list[Any], jinja: bool) -> DatasetInspection:
    files = model_files()
    files["tokenizer.json"] = tokenizer_json().encode()
    config = {"eos_token": "</s>"} | ({} if jinja else {"chat_template": template})
    files["tokenizer_config.json"] = json.dumps(config).encode()
    if jinja:
        files["chat_template.jinja"] = template.encode()
    write(folder / "model", files)
    write(folder / "data", {"rows.jsonl": jsonl(rows)})
    dataset = files_plan(folder / "data", "*", rows="messages", splits={"evaluationFraction": 0.0})
    model = {"name": "m", "directory": str(folder / "model")}
    outcome = run(inspection_plan("inspectDataset", dataset=dataset.to_json(), model=model))
    assert outcome.status == "succeeded", outcome.message
    return DatasetInspection.model_validate(outcome.summary)

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
from kubetune.api.kinds.inspection import DatasetInspection
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from kubetune_runner import data
from kubetune_runner.errors import RunError
from kubetune_runner.inspection import run
from kubetune_runner.own_code import handover
from kubetune_runner.training.inputs import prepare

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
MUSED = SAID | {"content": "<think>far</think>yes"}


def parts(text: str, **fields: Any) -> Turn:
    return {"role": "user", "content": [{"type": "text", "text": text, **fields}]}


def called(**fields: Any) -> Turn:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "sky", "arguments": {"at": "Rome"}},
    }
    return {"role": "assistant", "content": None, "tool_calls": [call | fields]}


CALLED = called()
TWICE = CALLED | {"tool_calls": CALLED["tool_calls"] * 2}
SHARED = {"from": "function_call", "value": '{"name": "sky", "arguments": {"at": "Rome"}}'}
SHARED_ANSWER = {"from": "observation", "value": "sunny"}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
THIRD = PHI.replace(
    "m.role == 'user'", "m.role == 'user' and (loop.index != 3 or messages | length < 6)"
)
NEWEST = PHI.replace(
    "<|assistant|>\n' + m.content",
    "<|assistant|>\n' + (m.content if loop.last else m.content.split('</think>')[-1])",
)
SHORT = PHI.replace("<|assistant|>\n' + m.content", "<|assistant|>\n' + m.content[:6]")
_CALLING = "{% for c in m.tool_calls or [] %}{{ CALL }}{% endfor %}"
TOOLS = PHI.replace("m.role == 'user'", "m.role != 'assistant'").replace(
    "{% generation %}", _CALLING.replace("CALL", "c.function | tojson") + "{% generation %}"
)
NAMES = TOOLS.replace("c.function | tojson", "c.function.name")
FIRST = TOOLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
WHOLE = {"chosen": [USER, SAID], "rejected": [USER, SAID | {"content": "no"}]}
OWN: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0},
    "kto": {"beta": 0.1, "lossType": "kto", "desirableWeight": 1, "undesirableWeight": 1},
    "reward": {},
}
WHOLE_SPLIT: dict[str, Any] = {"format": "messages", "splits": {"evaluationFraction": 0.0}}
CASES: dict[str, tuple[str, list[Turn], str | None]] = {
    "all is shown": (PHI, [USER, SAID], None),
    "a system turn": (PHI, [SYSTEM, USER, SAID], "a turn of role system"),
    "a system turn that is shown": (CHAT_TEMPLATES["plain"], [SYSTEM, USER, SAID], None),
    "a system turn before the user's": (CHAT_TEMPLATES["gemma"], [SYSTEM, USER, SAID], None),
    "thoughts": (PHI, [USER, THOUGHT], "what a turn of the assistant thinks"),
    "thoughts that are shown": (THINKS, [USER, THOUGHT], None),
    "a name": (PHI, [USER | {"name": "Ann"}, SAID], "field name of a turn"),
    "a weight": (PHI, [USER, SAID | {"weight": 0}, USER, SAID | {"weight": 1.0}], None),
    "a weight between": (PHI, [USER, SAID | {"weight": 0.5}], "field weight of a turn"),
    "a weight of the user's": (PHI, [USER | {"weight": 0}, SAID], "field weight of a turn"),
    "a mask": (PHI, [USER, SAID | {"train": False}], "field train of a turn"),
    "two thoughts": (THINKS, [USER, THOUGHT | {"thinking": "no"}], "field thinking of a turn"),
    "one thought twice": (THINKS, [USER, THOUGHT | {"thinking": "hm"}], None),
    "thoughts in a list": (PHI, [USER, SAID | {"thinking": ["a"]}], "field thinking of a turn"),
    "two shapes that agree": (PHI, [USER | {"from": "human", "value": "hello"}, SAID], None),
    "two texts": (PHI, [USER | {"value": "bye"}, SAID], "field value of a turn"),
    "two speakers": (PHI, [USER | {"from": "gpt"}, SAID], "field from of a turn"),
    "a part's field": (PHI, [parts("hello", cache="x"), SAID], "field cache of a part"),
    "parts": (PHI, [parts("hel", annotations=[], x=None), SAID], None),
    "an earlier turn that is alike": (THIRD, [USER, SAID] * 3, "a turn of role user"),
    "thoughts within a text": (NEWEST, [USER, MUSED, USER, MUSED], "what a turn of the assistant"),
    "thoughts within the last text": (NEWEST, [USER, SAID, USER, MUSED], None),
    "texts that end early": (
        SHORT,
        [USER, SAID | {"content": "a long answer"}],
        "a part of a turn",
    ),
    "calls": (TOOLS, [USER, CALLED, ANSWERED, SAID], None),
    "a field of a call": (TOOLS, [USER, called(strict=True), ANSWERED, SAID], "strict of a call"),
    "arguments": (NAMES, [USER, CALLED, ANSWERED, SAID], "calls of tools"),
    "a second call of a tool": (FIRST, [USER, TWICE, ANSWERED, ANSWERED, SAID], "calls of tools"),
    "another tool that answers": (
        TOOLS,
        [USER, CALLED, ANSWERED | {"name": "sea"}, SAID],
        "the name of a tool that answers",
    ),
    "the tool that was called": (TOOLS, [USER, CALLED, ANSWERED | {"name": "sky"}, SAID], None),
    "an older call beside one": (
        TOOLS,
        [USER, CALLED | {"function_call": {"name": "sea", "arguments": ""}}, ANSWERED, SAID],
        "field function_call of a turn",
    ),
    "an older call beside ShareGPT's": (
        TOOLS,
        [USER, SHARED | {"function_call": {"name": "sea", "arguments": ""}}, SHARED_ANSWER, SAID],
        "field function_call of a turn",
    ),
    "a call beside ShareGPT's": (
        TOOLS,
        [USER, SHARED | {"tool_calls": CALLED["tool_calls"]}, SHARED_ANSWER, SAID],
        "field tool_calls of a turn",
    ),
    "ShareGPT's call": (TOOLS, [USER, SHARED, SHARED_ANSWER, SAID], None),
    "a field of ShareGPT's call": (
        TOOLS,
        [
            USER,
            SHARED | {"value": '{"name": "sky", "parameters": {"at": "Rome"}}'},
            SHARED_ANSWER,
            SAID,
        ],
        "field parameters of a call",
    ),
    "a field of an older call": (
        TOOLS,
        [
            USER,
            SAID | {"function_call": {"name": "sky", "parameters": {"at": "Rome"}}},
            ANSWERED,
            SAID,
        ],
        "field parameters of a call",
    ),
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


SCRIPTED = ("all is shown", "a system turn", "a weight", "calls", "arguments")


@pytest.mark.parametrize("case", SCRIPTED)
def test_rows_of_a_script_count_and_refuse(
    make_plan: PlanFactory, tmp_path: Path, case: str
) -> None:
    """Code renders chats by the tokenizer's template, mostly."""
    template, turns, part = CASES[case]
    rows = [{"messages": [USER, SAID]}, {"messages": turns}]
    training = {"tokenizer": {"chatTemplate": template}}
    plan = make_plan(rows=rows, held_out=[], dataset=WHOLE_SPLIT, training=training)
    tokenizer = prepare(plan).tokenizer
    loaded = data.load(plan.dataset, None)
    placed = list(loaded.train.placed())
    counts = handover.write_rows(tmp_path, plan, "train", placed, [], tokenizer).rows.counts()
    assert (counts["hidden"], counts["used"]) == (part is not None, 2)
    dataset = WHOLE_SPLIT | {"refuseHidden": True}
    plan = make_plan(rows=rows, held_out=[], dataset=dataset, training=training)
    if part is not None:
        with pytest.raises(RunError, match=rf"row 2 of file 'train\.jsonl': .* {part}"):
            handover.write_rows(tmp_path, plan, "train", placed, [], tokenizer)
        # Code with a template of its own sees all but what nobody reads.
        tokenizer = None
        if "field" in part:
            with pytest.raises(RunError, match=part):
                handover.write_rows(tmp_path, plan, "train", placed, [], tokenizer)
            return
    handover.write_rows(tmp_path, plan, "train", placed, [], tokenizer)


@pytest.mark.parametrize("case", CASES)
def test_a_job_counts_and_refuses(make_plan: PlanFactory, case: str) -> None:
    template, turns, part = CASES[case]
    rows = [{"messages": [USER, SAID]}, {"messages": turns}, {"messages": [USER, SAID, USER, SAID]}]
    over: dict[str, Any] = {"training": {"tokenizer": {"chatTemplate": template}}}
    plan = make_plan(rows=rows, held_out=rows[:1], dataset={"format": "messages"}, **over)
    inputs = prepare(plan)
    assert inputs.train.counts()["hidden"] == (part is not None)
    assert inputs.train.counts()["used"] == 3
    refusing = {"format": "messages", "refuseHidden": True}
    plan = make_plan(rows=rows, held_out=rows[:1], dataset=refusing, **over)
    if part is None:
        prepare(plan)
        return
    with pytest.raises(RunError, match=rf"row 2 of file 'train\.jsonl': .* {part}") as caught:
        prepare(plan)
    assert caught.value.reason == "PartsHidden"


PREFERRED: dict[str, tuple[str, dict[str, Any], str | None]] = {
    # Objective, what the row has beside a good one, and what is told.
    "all is shown": ("dpo", {}, None),
    "a system turn": ("dpo", {"prompt": [SYSTEM, USER]}, "a turn of role system"),
    "a weight": ("dpo", {"rejected": [{**SAID, "content": "no", "weight": 0}]}, "field weight"),
    "thoughts": ("reward", {"chosen": [THOUGHT]}, "what a turn of the assistant thinks"),
    "another prompt": ("dpo", WHOLE | {"prompt": "be brief"}, "column 'prompt'"),
    "the same prompt": ("dpo", WHOLE | {"prompt": "hello"}, None),
    "an answer's system turn": ("kto", {"prompt": [SYSTEM, USER]}, "a turn of role system"),
    "an answer's name": ("kto", {"completion": [SAID | {"name": "Ann"}]}, "field name of a turn"),
    "texts": ("dpo", {"prompt": "a", "chosen": "b", "rejected": "c"}, None),
}


@pytest.mark.parametrize("case", PREFERRED)
def test_preferences_count_and_refuse(make_plan: PlanFactory, tmp_path: Path, case: str) -> None:
    objective, beside, part = PREFERRED[case]
    format = "unpairedPreference" if objective == "kto" else "preference"
    good = {"prompt": [USER], "completion": [SAID], "label": True}
    if format == "preference":
        good = {"prompt": [USER], "chosen": [SAID], "rejected": [SAID | {"content": "no"}]}
    rows = [good, good | beside, good]
    training = {"objective": objective, objective: OWN[objective]}
    training["tokenizer"] = {"chatTemplate": PHI}
    dataset = {"format": format, "splits": {"evaluationFraction": 0.0}}
    plan = make_plan(rows=rows, held_out=[], dataset=dataset, training=training)
    inputs = prepare(plan)
    assert (inputs.train.counts()["hidden"], inputs.train.counts()["used"]) == (bool(part), 3)
    refusing = dataset | {"refuseHidden": True}
    plan = make_plan(rows=rows, held_out=[], dataset=refusing, training=training)
    if part is None:
        prepare(plan)
    else:
        with pytest.raises(RunError, match=rf"row 2 of file 'train\.jsonl': .* {part}") as caught:
            prepare(plan)
        assert caught.value.reason == "PartsHidden"
    found = inspected(tmp_path / "inspected", PHI, rows, True, format)
    assert found.checks is not None
    assert found.checks.hidden_part_rows == (part is not None)
    told = [problem for problem in found.problems if "doesn't show" in problem.message]
    assert [problem.row for problem in told] == ([2] if part else [])


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


def inspected(
    folder: Path, template: str, rows: list[Any], jinja: bool, format: str = "messages"
) -> DatasetInspection:
    files = model_files()
    files["tokenizer.json"] = tokenizer_json(f"{template} {json.dumps(rows)}").encode()
    config = {"eos_token": "</s>"} | ({} if jinja else {"chat_template": template})
    files["tokenizer_config.json"] = json.dumps(config).encode()
    if jinja:
        files["chat_template.jinja"] = template.encode()
    write(folder / "model", files)
    write(folder / "data", {"rows.jsonl": jsonl(rows)})
    dataset = files_plan(folder / "data", "*", rows=format, splits={"evaluationFraction": 0.0})
    model = {"name": "m", "directory": str(folder / "model")}
    outcome = run(inspection_plan("inspectDataset", dataset=dataset.to_json(), model=model))
    assert outcome.status == "succeeded", outcome.message
    return DatasetInspection.model_validate(outcome.summary)

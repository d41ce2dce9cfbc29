"""One verdict on a row and one number for it: what an inspection lets pass, trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from inspection_fixtures import files_plan, inspection_plan, jsonl, write
from kubetune.api.kinds.inspection import DatasetInspection
from kubetune.api.run.plan import RunPlan
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from kubetune.api.training.own_code import ENV_TRAIN_DATA
from kubetune_runner import data
from kubetune_runner.errors import RunError
from kubetune_runner.inspection import run
from kubetune_runner.own_code import handover
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory

Row = dict[str, Any]


def chat(*turns: tuple[str, Any]) -> Row:
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


GOOD_CHAT = chat(("user", "a"), ("assistant", "b"))
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
ODD: dict[str, tuple[str, Row, list[Row], list[Row]]] = {
    # Format, a good row, rows that are empty, rows that don't fit.
    "pairs": (
        "promptCompletion",
        {"prompt": "a", "completion": "b"},
        [
            {"prompt": "a", "completion": ""},
            {"prompt": " ", "completion": "b"},
            {"prompt": "a"},
            {"prompt": None, "completion": None},
            {},
        ],
        [{"prompt": {"x": 1}, "completion": "b"}, {"prompt": "a", "completion": ["b"]}],
    ),
    "texts": (
        "text",
        {"text": "some text"},
        [{"text": "\n"}, {"text": None}, {"other": "x"}],
        [{"text": [1]}],
    ),
    "chats": (
        "messages",
        GOOD_CHAT,
        [
            {"messages": []},
            {"messages": None},
            {"other": 1},
            chat(("user", "a")),
            chat(("user", "a"), ("assistant", " ")),
        ],
        [
            {"messages": "a"},
            chat(("robot", "a"), ("assistant", "b")),
            chat(("user", None), ("assistant", "b")),
            chat(("user", [{"type": "image_url", "image_url": {}}]), ("assistant", "b")),
            {"messages": ["a"]},
            {"messages": [{"role": "assistant", "tool_calls": ["x"]}]},
            GOOD_CHAT | {"tools": ["x"]},
        ],
    ),
    "preferences": (
        "preference",
        PAIR,
        [PAIR | {"chosen": ""}, PAIR | {"rejected": None}],
        [PAIR | {"chosen": "c"}, PAIR | {"rejected": {"a": 1}}],
    ),
    "rated": (
        "unpairedPreference",
        {"prompt": "a", "completion": "b", "label": True},
        [{"prompt": "a", "completion": "", "label": True}],
        [{"prompt": "a", "completion": "b", "label": "maybe"}],
    ),
}
OBJECTIVES = {
    "preferences": ("dpo", {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0}),
    "rated": (
        "kto",
        {"beta": 0.1, "lossType": "kto", "desirableWeight": 1.0, "undesirableWeight": 1.0},
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_what_an_inspection_lets_pass_trains(
    make_plan: PlanFactory, tmp_path: Path, case: str
) -> None:
    format, good, empty, unusable = ODD[case]
    rows = [good, *empty, *unusable, good | {"n": 1}]
    objective, own = OBJECTIVES.get(case, ("sft", None))
    training: Row = {"objective": objective, **({objective: own} if own else {})}
    plan = make_plan(
        rows=rows,
        held_out=[],
        dataset={"format": format, "splits": {"evaluationFraction": 0.0}},
        training=training,
    )
    inputs = prepare(plan)
    counts = inputs.train.counts()
    assert (counts["used"], counts["empty"], counts["unusable"]) == (2, len(empty), len(unusable))
    outcome = run(inspection_plan("inspectDataset", dataset=plan.dataset.to_json()))
    assert outcome.status == "succeeded", outcome.message
    found = DatasetInspection.model_validate(outcome.summary)
    assert found.checks is not None
    assert found.checks.empty_rows == len(empty)
    assert found.checks.unusable_rows == len(unusable)
    assert found.checks.trainable_rows == 2
    # Each row that is left out is named by the number that it has in its file.
    named = {problem.row for problem in data.load(plan.dataset, None).problems if problem.row}
    assert named >= set(range(2, len(rows)))
    assert len(rows) not in named
    # A script gets the same rows.
    loaded = data.load(plan.dataset, None)
    placed = list(loaded.train.placed())
    written = handover.write_rows(tmp_path, plan, "train", placed, [], inputs.tokenizer)
    assert len(Path(written.files[ENV_TRAIN_DATA]).read_text().splitlines()) == 2
    assert written.rows.counts() == counts


def test_a_template_may_use_what_does_not_fit(make_plan: PlanFactory) -> None:
    rows: list[Row] = [
        {"question": {"a": 1}, "answer": "x"},
        {"question": "q", "answer": "y", "context": "c"},
        {"question": "q", "answer": ""},
    ]
    prompt = {"prompt": "{question}{context}", "completion": "{answer}"}
    plan = make_plan(rows=rows, held_out=[{"question": "q", "answer": "z"}], prompt=prompt)
    inputs = prepare(plan)
    assert inputs.train.counts()["used"] == 2
    assert inputs.train.counts()["empty"] == 1
    assert len(inputs.evaluation.rows) == 1


REFUSING = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.mark.parametrize("split", ["train", "held out"])
def test_a_template_that_refuses_names_the_row_of_the_file(
    make_plan: PlanFactory, split: str
) -> None:
    """The number is that of the file, whatever was held out before it."""
    chats = [chat(("user", f"q{at}"), ("assistant", f"a{at}")) for at in range(20)]
    chats[17] = chat(("system", "s"), *((t["role"], t["content"]) for t in chats[17]["messages"]))
    training = {"tokenizer": {"chatTemplate": REFUSING}}

    def planned(seed: int) -> RunPlan:
        splits = {"evaluationFraction": 0.3, "seed": seed}
        dataset = {"format": "messages", "splits": splits}
        return make_plan(rows=chats, held_out=[], dataset=dataset, training=training)

    def trains(seed: int) -> bool:
        return chats[17] in data.load(planned(seed).dataset, None).train

    plan = planned(next(seed for seed in range(100) if trains(seed) == (split == "train")))
    with pytest.raises(RunError, match=r"row 18 of file 'train\.jsonl': .*no system") as caught:
        prepare(plan)
    assert caught.value.reason == "ChatTemplateUnsupported"


def test_a_preference_that_a_template_refuses_is_named(make_plan: PlanFactory) -> None:
    def pair(*before: tuple[str, str]) -> Row:
        answers = {"chosen": "yes", "rejected": "no"}
        return {
            name: chat(*before, ("user", "q"), ("assistant", text))["messages"]
            for name, text in answers.items()
        }

    own = {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0}
    training = {"objective": "dpo", "dpo": own, "tokenizer": {"chatTemplate": REFUSING}}
    plan = make_plan(
        rows=[pair(), pair(("system", "s"))],
        held_out=[pair(("user", "x"), ("assistant", "y"))],
        dataset={"format": "preference"},
        training=training,
    )
    with pytest.raises(RunError, match=r"row 2 of file 'train\.jsonl'"):
        prepare(plan)


def test_rows_of_which_only_held_out_ones_fit_are_refused(tmp_path: Path) -> None:
    files = {"train.jsonl": jsonl([{"text": ""}]), "test.jsonl": jsonl([{"text": "a"}])}
    write(tmp_path, files)
    plan = files_plan(tmp_path, "*", rows="text")
    outcome = run(inspection_plan("inspectDataset", dataset=plan.to_json()))
    assert (outcome.status, outcome.reason) == ("failed", "NoUsableRows")
    assert "only some that are held out" in outcome.message
    problems: Any = outcome.summary["problems"]
    assert problems[0]["row"] == 1


SHAREGPT = [
    {"from": "system", "value": "be short"},
    {"from": "human", "value": "weather?"},
    {"from": "function_call", "value": json.dumps({"name": "sky", "arguments": {"at": "Rome"}})},
    {"from": "observation", "value": "sunny"},
    {"from": "gpt", "value": "Sunny."},
]


def test_chats_of_other_forms_are_read(make_plan: PlanFactory) -> None:
    """ShareGPT's turns, its column, OpenAI's parts and its older calls."""
    call = {"name": "sky", "arguments": '{"at": "Rome"}'}
    parts = [{"type": "text", "text": "wea"}, {"type": "text", "text": "ther?"}]
    openai = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "sky", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]
    sky = {"function": {"name": "sky", "arguments": {"at": "Rome"}}}
    plain = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "tool_calls": [sky]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]
    training = {"tokenizer": {"chatTemplate": CHAT_TEMPLATES["plain"]}}
    encoded: list[Any] = []
    for rows in ([{"conversations": SHAREGPT}], [{"messages": openai}], [{"messages": plain}]):
        plan = make_plan(rows=rows, held_out=[], dataset={"format": "messages"}, training=training)
        encoded.append(prepare(plan).train.rows[0].input_ids)
    assert encoded[0] == encoded[1] == encoded[2]


def test_a_text_without_a_token_to_learn_is_empty(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path
) -> None:
    """The first token of a text follows none: an end alone is nothing without a start token."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    rows = [{"text": text} for text in ("a", "<eos>", "<eos><eos>")]
    dataset = {"format": "text", "splits": {"evaluationFraction": 0.0}}
    named = {"name": "m", "type": "base", "directory": str(model)}
    plan = make_plan(rows=rows, held_out=[], dataset=dataset, model=named)
    counts = prepare(plan).train.counts()
    assert (counts["used"], counts["empty"], counts["cutAway"]) == (2, 1, 0)
    outcome = run(inspection_plan("inspectDataset", dataset=plan.dataset.to_json(), model=named))
    checks = DatasetInspection.model_validate(outcome.summary).checks
    assert checks is not None
    assert (checks.trainable_rows, checks.empty_rows) == (2, 1)

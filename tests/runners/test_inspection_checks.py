"""Checks of a dataset's rows: what repeats, leaks, is empty or long, and what is said of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from inspection_fixtures import files_plan, inspection_plan, jsonl, tokenizer_json, write
from kubetune.api.kinds.inspection import DatasetInspection
from kubetune.api.run.outcome import MESSAGE_LIMIT_BYTES
from kubetune_runner.inspection import run

Rows = list[dict[str, Any]]


def pairs(*texts: str) -> Rows:
    """``"a:b"`` is prompt a with completion b."""
    return [dict(zip(("prompt", "completion"), text.split(":"), strict=True)) for text in texts]


def inspected(
    folder: Path, files: dict[str, Rows], model: Path | None = None, **fields: Any
) -> DatasetInspection:
    write(folder / "data", {name: jsonl(rows) for name, rows in files.items()})
    plan: dict[str, Any] = {"dataset": files_plan(folder / "data", "*", **fields).to_json()}
    if model:
        plan["model"] = {"name": "words", "directory": str(model)}
    outcome = run(inspection_plan("inspectDataset", **plan))
    assert outcome.status == "succeeded", outcome.message
    assert len(outcome.to_message()) <= MESSAGE_LIMIT_BYTES
    return DatasetInspection.model_validate(outcome.summary)


def counted(found: DatasetInspection) -> dict[str, int]:
    assert found.checks is not None
    return {name: count for name, count in found.checks.to_json().items() if name != "longLimit"}


def test_what_is_wrong_is_counted_and_named_by_row(tmp_path: Path) -> None:
    files = {
        "train-1.jsonl": pairs("a:1", "b:2", "a:1", "c:3"),
        "train-2.jsonl": pairs("d:4", "a:1", "secret text:x"),
        "test.jsonl": pairs("b:2", "c:other", "e:5", "e:5", "d:"),
    }
    found = inspected(tmp_path, files)
    assert counted(found) == {
        "duplicateRows": 3,
        "leakedRows": 1,
        "leakedPrompts": 2,
        "emptyRows": 1,
        "unusableRows": 0,
        "hiddenPartRows": 0,
        "trainableRows": 7,
        "longRows": 0,
    }
    problems = {problem.message: (problem.file, problem.row) for problem in found.problems}
    assert problems[
        "rows that repeat an earlier row of their split; remove them: 3, namely row 3, row 2 of"
        " 'train-2.jsonl', row 4 of 'test.jsonl'"
    ] == ("train-1.jsonl", 3)
    leaked = "rows that also train; remove them from one of the two splits: 1, namely row 1"
    assert problems[leaked] == ("test.jsonl", 1)
    prompts = next(text for text in problems if "another answer" in text)
    assert prompts.endswith(": 2, namely row 2, row 5")
    assert "secret" not in json.dumps(found.to_json())


def test_held_out_rows_of_one_split_leak_prompts_alone(tmp_path: Path) -> None:
    rows = pairs(*(f"same:{at}" for at in range(10)), *(["twice:x"] * 2))
    found = inspected(tmp_path, {"rows.jsonl": rows}, splits={"evaluationFraction": 0.5})
    counts = counted(found)
    assert (counts["leakedRows"], counts["duplicateRows"]) == (0, 1)
    assert 0 < counts["leakedPrompts"] <= found.rows.evaluation


def test_conversations_are_compared_up_to_the_last_answer(tmp_path: Path) -> None:
    def chat(answer: str) -> dict[str, Any]:
        turns = [("user", "hello"), ("assistant", "yes?"), ("user", "x"), ("assistant", answer)]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    files = {"train.jsonl": [chat("a"), chat("b")], "test.jsonl": [chat("a"), chat("c")]}
    counts = counted(inspected(tmp_path, files, rows="messages"))
    assert (counts["leakedRows"], counts["leakedPrompts"]) == (1, 1)


def test_text_has_no_prompt_and_other_columns_may_be_free(tmp_path: Path) -> None:
    texts = inspected(tmp_path / "a", {"rows.jsonl": [{"text": "a"}, {"text": "b"}]}, rows="text")
    assert counted(texts)["leakedPrompts"] == 0
    free = inspected(tmp_path / "b", {"rows.jsonl": [{"question": "a"}, {"question": ""}] * 2})
    assert (counted(free)["emptyRows"], counted(free)["duplicateRows"]) == (2, 2)


def test_long_rows_pass_the_context_of_the_tokenizers_model(tmp_path: Path) -> None:
    config = json.dumps({"max_position_embeddings": 50})
    model = write(tmp_path / "model", {"tokenizer.json": tokenizer_json(), "config.json": config})
    rows = {"rows.jsonl": pairs(*("a " * at + ":b" for at in range(1, 101)))}
    found = inspected(tmp_path, rows, model)
    assert found.checks is not None
    assert (found.checks.long_limit, found.checks.long_rows) == (50, 51)
    assert any(
        "have more than 50 tokens; training cuts at maxLength: 51," in each.message
        for each in found.problems
    )


def test_characters_are_counted_without_a_tokenizer(tmp_path: Path) -> None:
    rows = pairs(*("x" * at + ":y" for at in (0, 1, 15, 16, 40_000)))
    found = inspected(tmp_path, {"rows.jsonl": rows})
    assert found.lengths is not None
    assert found.lengths.to_json() == {
        "unit": "characters",
        "minimum": 1,
        "median": 16,
        "p95": 40_001,
        "maximum": 40_001,
        "total": 40_037,
        "buckets": [
            {"upTo": 16, "rows": 3, "total": 19},
            {"upTo": 32, "rows": 1, "total": 17},
            {"upTo": 65_536, "rows": 1, "total": 40_001},
        ],
    }
    assert found.checks is not None
    assert (found.checks.long_limit, found.checks.long_rows) == (32_768, 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    *[st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("12")), min_size=1)] * 2,
)
def test_counts_agree_with_a_plain_comparison(
    train: list[tuple[str, str]], test: list[tuple[str, str]]
) -> None:
    files = {
        "train.jsonl": pairs(*(":".join(pair) for pair in train)),
        "test.jsonl": pairs(*(":".join(pair) for pair in test)),
    }
    with tempfile.TemporaryDirectory() as folder:
        counts = counted(inspected(Path(folder), files))
    prompts = {prompt for prompt, _ in train}
    assert counts["duplicateRows"] == len(train) + len(test) - len(set(train)) - len(set(test))
    assert counts["leakedRows"] == sum(pair in train for pair in test)
    assert counts["leakedPrompts"] == sum(pair not in train and pair[0] in prompts for pair in test)

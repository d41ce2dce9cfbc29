"""Values keep their meaning on the way from a file to training text."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kubetune.api.run.plan import DatasetPlan, PromptPlan
from kubetune_runner.data import load
from kubetune_runner.errors import RunError
from kubetune_runner.inspection.prompt import render_sample
from kubetune_runner.text.prompts import make_examples

VALUES: dict[str, tuple[Any, str]] = {
    "object": ({"a": True, "b": None}, '{"a": true, "b": null}'),
    "list": (["x", 1, False], '["x", 1, false]'),
    "nested": ({"é": [{"k": None}]}, '{"é": [{"k": null}]}'),
    "bool": (True, "true"),
    "number": (1.5, "1.5"),
    "whole number": (3, "3"),
    "text": ('it\'s "so"', 'it\'s "so"'),
    "nothing": (None, ""),
}


def plan_of(folder: Path, format: str = "jsonl", **over: Any) -> DatasetPlan:
    document = {
        "name": "d",
        "files": {"directory": str(folder), "glob": f"*.{format}", "format": format},
        "format": "promptCompletion",
        "columns": {},
        "splits": {"evaluationFraction": 0.0},
    }
    return DatasetPlan.model_validate(document | over)


@pytest.mark.parametrize("case", VALUES)
def test_a_slot_takes_json(tmp_path: Path, case: str) -> None:
    value, text = VALUES[case]
    template = PromptPlan(prompt="-{v}-", completion="{v}!")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"v": value}) + "\n")
    plan = plan_of(tmp_path)
    (example,) = make_examples(load(plan, None).train, plan, template)
    assert (example.prompt, example.completion) == (f"-{text}-", f"{text}!")
    # What status shows is what trains.
    sample = render_sample(plan, template, None)
    assert (sample.prompt, sample.completion) == (f"-{text}-", f"{text}!")


@pytest.mark.parametrize("value", [True, 2.5, 7, "no"])
def test_a_column_that_is_no_text_is_json_too(tmp_path: Path, value: Any) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "p", "completion": value}) + "\n")
    plan = plan_of(tmp_path)
    (example,) = make_examples(load(plan, None).train, plan, None)
    expected = value if isinstance(value, str) else json.dumps(value)
    assert example.completion == expected
    assert render_sample(plan, None, None).completion == expected


def test_the_advice_for_an_object_leads_to_its_json(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": {"a": None}}]
    (example,) = make_examples(rows, plan_of(tmp_path), None)
    assert "a PromptTemplate with {completion} as JSON" in str(example.fault)
    template = PromptPlan(prompt="{prompt}", completion="{completion}")
    (example,) = make_examples(rows, plan_of(tmp_path), template)
    assert example.completion == '{"a": null}'


def read(folder: Path, table: pa.Table) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and problems of a file with the table."""
    pq.write_table(table, folder / "rows.parquet", row_group_size=2)
    loaded = load(plan_of(folder, "parquet"), None)
    return list(loaded.train), [problem.message for problem in loaded.problems]


def text(value: Any) -> str:
    """What trains of a cell."""
    template = PromptPlan(prompt="{v}", completion="a")
    return make_examples([{"v": value}], plan_of(Path("/d")), template)[0].prompt


@pytest.mark.parametrize("missing", ["NaN", "null"])
def test_missing_numbers_are_null_and_leave_the_others_whole(tmp_path: Path, missing: str) -> None:
    frame = pd.DataFrame(
        {
            "prompt": ["p"] * 5,
            "completion": ["c"] * 5,
            "year": [1999, None, 2001, 3, None],
            "price": [1.0, None, 2.5, math.nan, 3.0],
            "score": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )
    assert frame["year"].dtype == "float64"
    table = pa.Table.from_pandas(frame)
    if missing == "NaN":
        table = pa.table(
            {name: pa.array(frame[name].to_numpy(), from_pandas=False) for name in frame}
            | {"prompt": table["prompt"], "completion": table["completion"]}
        )
    rows, problems = read(tmp_path, table)
    assert [row["year"] for row in rows] == [1999, None, 2001, 3, None]
    assert [text(row["year"]) for row in rows] == ["1999", "", "2001", "3", ""]
    assert [text(row["price"]) for row in rows] == ["1.0", "", "2.5", "", "3.0"]
    assert [text(row["score"]) for row in rows] == ["1.0", "2.0", "3.0", "4.0", "5.0"]
    assert problems == []


def test_missing_numbers_within_lists_and_maps_are_null(tmp_path: Path) -> None:
    nan = math.nan
    rows, _ = read(
        tmp_path,
        pa.table(
            {
                "prompt": ["p"],
                "completion": ["c"],
                "list": pa.array([[1.5, nan]], from_pandas=False),
                "map": pa.array([{"a": nan, "b": [{"c": nan}]}], from_pandas=False),
            }
        ),
    )
    assert rows[0]["list"] == [1.5, None]
    assert rows[0]["map"] == {"a": None, "b": [{"c": None}]}


def test_numbers_and_empty_columns_of_other_widths(tmp_path: Path) -> None:
    half = pa.array([1.0, None, 3.0], pa.float32()).cast(pa.float16())
    rows, _ = read(
        tmp_path,
        pa.table(
            {
                "prompt": ["p"] * 3,
                "completion": ["c"] * 3,
                "half": half,
                "nothing": pa.array([None] * 3, pa.float64()),
                "huge": [1e300, None, 1.0],
            }
        ),
    )
    assert [row["half"] for row in rows] == [1, None, 3]
    assert [row["nothing"] for row in rows] == [None] * 3
    assert [row["huge"] for row in rows] == [1e300, None, 1.0]


def test_infinite_numbers_are_named(tmp_path: Path) -> None:
    rows, problems = read(
        tmp_path,
        pa.table({"prompt": ["p"] * 2, "completion": ["c"] * 2, "n": [0.5, math.inf]}),
    )
    assert [row["n"] for row in rows] == [0.5, None]
    assert len(problems) == 1
    assert "'n'" in problems[0].replace('"', "'")
    assert "row 2" in problems[0]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "completion": 1e999}\n')
    with pytest.raises(RunError, match=r"row 1: the row has a number too large for a float"):
        load(plan_of(tmp_path), None)


def test_columns_of_every_type_can_be_read(tmp_path: Path) -> None:
    """Whether they are used or not."""
    key = uuid.UUID(int=7)
    rows, problems = read(
        tmp_path,
        pa.table(
            {
                "prompt": ["p"],
                "completion": ["c"],
                "id": pa.array([key.bytes], pa.uuid()),
                "ids": pa.ListArray.from_arrays([0, 1], pa.array([key.bytes], pa.uuid())),
                "json": pa.array(['{"a": 1}'], pa.json_()),
                "kind": pa.array(["x"]).dictionary_encode(),
                "raw": pa.array([b"1"]).dictionary_encode(),
                "entries": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
                "took": pa.array([5], pa.duration("s")),
                "at": pa.array([1], pa.time64("us")),
                "when": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns", "UTC")),
            }
        ),
    )
    row = rows[0]
    assert row["id"] == str(key)
    assert row["ids"] == [str(key)]
    assert json.loads(row["json"]) == {"a": 1}
    assert row["kind"] == "x"
    assert row["entries"] == [["k", 1]]
    assert row["when"].startswith("2023-11-14T")
    assert "raw" not in row
    assert len(problems) == 1
    assert json.dumps(row, allow_nan=False)

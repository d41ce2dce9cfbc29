"""Rows from files: what is read, what is refused and in which words, digests and splits."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import json
import lzma
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inspection_fixtures import ROWS, files_plan, jsonl
from kubetune_runner.data import load
from kubetune_runner.data.file_kinds import delimiter_of
from kubetune_runner.data.reading import RowsRefusedError
from kubetune_runner.errors import RunError

SECRET = "s3cr3t-row-text"


@dataclass(frozen=True)
class Bad:
    """A file that must be refused."""

    name: str
    content: bytes
    format: str
    row: int | None
    says: str
    reason: str = "InvalidRows"


def broken_at(line: int, replacement: str) -> bytes:
    lines = [json.dumps({"prompt": "p", "completion": str(at)}) for at in range(2000)]
    lines[line - 1] = replacement
    return "\n".join(lines).encode()


BAD = [
    Bad("no rows", b"", "jsonl", None, "no rows", "NoRows"),
    Bad("only a header", b"prompt,completion\n", "csv", None, "no rows", "NoRows"),
    Bad("empty array", b"[]", "json", None, "no rows", "NoRows"),
    Bad(
        "broken JSON on line 1,204",
        broken_at(1204, '{"prompt": "' + SECRET),
        "jsonl",
        1204,
        "line 1,204 isn't JSON",
    ),
    Bad(
        "a line of 5 MB",
        broken_at(1204, json.dumps({"prompt": SECRET * 350_000, "completion": "c"})),
        "jsonl",
        1204,
        "longer than the 1,048,576 bytes",
    ),
    Bad(
        "a row of 5 MB in an array",
        json.dumps([{"prompt": "p"}, {"prompt": SECRET * 350_000}]).encode(),
        "json",
        2,
        "at most 1,048,576",
    ),
    Bad(
        "a CSV line of 5 MB",
        b"prompt,completion\na,b\nc," + SECRET.encode() * 350_000 + b"\n",
        "csv",
        2,
        "line 3 is longer",
    ),
    Bad("Latin-1", '{}\n{"prompt": "é"}'.encode("latin-1"), "jsonl", 2, "isn't UTF-8"),
    Bad("Latin-1 in CSV", "prompt\na\né\n".encode("latin-1"), "csv", 2, "line 3 isn't UTF-8"),
    Bad("UTF-16", "prompt\na\n".encode("utf-16"), "csv", None, "save it as UTF-8"),
    Bad("half a surrogate", b'{"prompt": "\\ud800"}', "jsonl", 1, "surrogate"),
    Bad("NaN", b'{"prompt": NaN}', "jsonl", 1, "NaN is not JSON"),
    Bad("a row that is a list", b"[1, 2]\n", "jsonl", 1, "must be an object"),
    Bad("too few cells", f"a,b\n1,2\n{SECRET}\n".encode(), "csv", 2, "has 1 cells, the header"),
    Bad("too many cells", f"a,b\n{SECRET},2,3\n".encode(), "csv", 1, "has 3 cells, the header"),
    Bad("open quote", f'a,b\n1,2\n"{SECRET},2\n'.encode(), "csv", 2, "isn't CSV"),
    Bad("a name twice", b"a,a\n1,2\n", "csv", None, "column 'a' 2 times"),
    Bad(
        "gzip",
        gzip.compress(b"{}\n"),
        "jsonl",
        None,
        "compressed with gzip; unpack it: `gunzip FILE`",
    ),
    Bad(
        "bzip2",
        bz2.compress(b"{}\n"),
        "csv",
        None,
        "compressed with bzip2; unpack it: `bunzip2 FILE`",
    ),
    Bad("bzip2, level 1", bz2.compress(b"{}", 1), "json", None, "compressed with bzip2"),
    Bad("xz", lzma.compress(b"{}\n"), "json", None, "compressed with xz; unpack it: `unxz FILE`"),
    Bad(
        "zstd",
        b"\x28\xb5\x2f\xfd\x04\x58",
        "jsonl",
        None,
        "compressed with zstd; unpack it: `zstd -d",
    ),
    Bad("lz4", b"\x04\x22\x4d\x18rest", "jsonl", None, "compressed with lz4"),
    Bad("zip as parquet", b"PK\x03\x04rest", "parquet", None, "zip archive or an Excel workbook"),
    Bad("tar", b"a" + b"\0" * 256 + b"ustar\x0000", "jsonl", None, "tar archive; unpack it"),
    Bad("an Arrow file", b"ARROW1\0\0rest", "parquet", None, "Arrow file; save it as parquet"),
    Bad("UTF-32", "prompt\n".encode("utf-32"), "csv", None, "is UTF-32"),
    Bad("a pickle", pickle.dumps([{"prompt": "a"}]), "jsonl", None, "is a pickle"),
    Bad(
        "other cells in a later row",
        b"prompt;completion,x\na;b,c\nd,e,f\n",
        "csv",
        2,
        "quote cells that hold commas or line breaks, or set csv.delimiter of the source to ';'",
    ),
    Bad("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", "csv", None, "lfs"),
    Bad("a web page", b"<!DOCTYPE html><html>", "csv", None, "web page"),
    Bad("parquet that isn't", b"PAR1 but no more", "parquet", None, "can't be read as parquet"),
    Bad("parquet called jsonl", b"PAR1....", "jsonl", None, "set format: parquet"),
    Bad("cut off array", b'[{"prompt": "a"},\n {"pro', "json", None, "line 2, column"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_files_are_refused_with_their_place(case: Bad, tmp_path: Path) -> None:
    (tmp_path / f"rows.{case.format}").write_bytes(case.content)
    with pytest.raises(RowsRefusedError) as refused:
        load(files_plan(tmp_path, "rows.*", case.format), None)
    error = refused.value
    assert error.reason == case.reason
    assert case.says in error.message
    assert not error.retryable
    if case.reason == "InvalidRows":
        problem = error.summary["problems"][0]
        assert problem.get("row") == case.row
        assert problem["file"] == f"rows.{case.format}"
    assert SECRET not in error.message + json.dumps([error.summary, error.report])


def test_every_broken_row_is_found_and_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n' + "broken\n" * 50)
    with pytest.raises(RowsRefusedError) as refused:
        load(files_plan(tmp_path, "*.jsonl"), None)
    assert len(refused.value.summary["problems"]) == 20
    assert refused.value.summary["problemCount"] == 50
    assert [each["row"] for each in refused.value.report["problems"]] == list(range(2, 52))
    assert "49 more" in refused.value.message


GOOD = {
    "csv with BOM, CRLF and quoted line breaks": (
        "csv",
        '\ufeffprompt,completion\r\n"a\r\nb","c ""d"", e"\r\n007,\r\n',
        [{"prompt": "a\r\nb", "completion": 'c "d", e'}, {"prompt": "007", "completion": ""}],
    ),
    "jsonl with BOM, CRLF and blank lines": (
        "jsonl",
        '\ufeff{"prompt": "ä"}\r\n\r\n{"prompt": "b"}',
        [{"prompt": "ä"}, {"prompt": "b"}],
    ),
    "json array": ("json", '[{"prompt": "a"}]', [{"prompt": "a"}]),
    "json object with an array": ("json", '{"v": 1, "data": [{"prompt": "a"}]}', [{"prompt": "a"}]),
    "json that is JSON lines": (
        "json",
        '{"prompt": "a"}\n{"prompt": "b"}\n',
        [{"prompt": "a"}, {"prompt": "b"}],
    ),
    "csv with an index column": ("csv", ",prompt\n0,a\n", [{"prompt": "a"}]),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_are_read_as_written(name: str, tmp_path: Path) -> None:
    format, text, rows = GOOD[name]
    (tmp_path / "rows").write_bytes(text.encode())
    plan = files_plan(tmp_path, "rows", format, splits={"evaluationFraction": 0.0})
    assert load(plan, None).train == rows


def test_parquet_values_become_json_values(tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "completion": "c",
        "day": datetime.date(2026, 1, 2),
        "tags": ["a", "b"],
        "score": 1.5,
        "image": {"bytes": b"\x00", "path": "x.png"},
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    loaded = load(files_plan(tmp_path, "*.parquet", "parquet"), None)
    expected = {"prompt": "p", "completion": "c", "day": "2026-01-02", "tags": ["a", "b"]}
    assert loaded.train == [{**expected, "score": 1.5}]
    assert [(problem.field, "bytes" in problem.message) for problem in loaded.problems] == [
        ("image", True)
    ]


def test_digest_is_of_the_content_not_of_files_and_formats(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text(jsonl(ROWS))
    (tmp_path / "shards").mkdir()
    for at in range(4):
        (tmp_path / "shards" / f"{at}.jsonl").write_text(jsonl(ROWS[25 * at : 25 * at + 25]))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "one.parquet", row_group_size=7)
    cells = "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS)
    (tmp_path / "one.csv").write_text(f"prompt,completion\n{cells}")
    (tmp_path / "other.jsonl").write_text(jsonl([*ROWS[:-1], {**ROWS[-1], "completion": "x"}]))
    plans = [
        files_plan(tmp_path, "one.jsonl"),
        files_plan(tmp_path, "shards/*.jsonl"),
        files_plan(tmp_path, "one.parquet", "parquet"),
        files_plan(tmp_path, "one.csv", "csv"),
    ]
    loaded = [load(plan, None) for plan in plans]
    assert len({(each.digest, each.split_digest) for each in loaded}) == 1
    assert loaded[0].digest != load(files_plan(tmp_path, "other.jsonl"), None).digest
    reseeded = load(files_plan(tmp_path, "one.jsonl", splits={"seed": 1}), None)
    assert reseeded.digest == loaded[0].digest
    assert reseeded.split_digest != loaded[0].split_digest


@pytest.mark.parametrize(
    ("rows", "fraction", "held_out"),
    [(1, 0.1, 0), (2, 0.1, 1), (10, 0.1, 1), (100, 0.1, 10), (100, 0.0, 0), (10, 0.9, 9)],
)
def test_sizes_of_the_random_split(
    rows: int, fraction: float, held_out: int, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(jsonl(ROWS[:rows]))
    loaded = load(files_plan(tmp_path, "*", splits={"evaluationFraction": fraction}), None)
    assert (len(loaded.train), len(loaded.evaluation)) == (rows - held_out, held_out)
    both = [row["prompt"] for row in (*loaded.train, *loaded.evaluation)]
    assert sorted(both) == sorted(row["prompt"] for row in ROWS[:rows])


def test_random_split_ignores_order_and_keeps_equal_rows_together(tmp_path: Path) -> None:
    doubled = [row for row in ROWS for _ in range(3)]
    (tmp_path / "a.jsonl").write_text(jsonl(doubled))
    (tmp_path / "b.jsonl").write_text(jsonl(doubled[::-1]))
    first = load(files_plan(tmp_path, "a.jsonl"), None)
    second = load(files_plan(tmp_path, "b.jsonl"), None)
    held_out = {row["prompt"] for row in first.evaluation}
    assert held_out == {row["prompt"] for row in second.evaluation}
    assert not held_out & {row["prompt"] for row in first.train}
    assert 24 <= len(first.evaluation) <= 36


def test_equal_rows_alone_all_train(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(jsonl([ROWS[0]] * 20))
    loaded = load(files_plan(tmp_path, "*"), None)
    assert (len(loaded.train), len(loaded.evaluation)) == (20, 0)


SPLIT_FILES = {
    "train beside test": (["train.jsonl", "test.jsonl"], {}, ("train.jsonl", "test.jsonl")),
    "validation before test": (
        ["train.jsonl", "test.jsonl", "validation.jsonl"],
        {},
        ("train.jsonl", "validation.jsonl"),
    ),
    "named": (
        ["train.jsonl", "test.jsonl", "dev.jsonl"],
        {"train": "test", "evaluation": "dev"},
        ("test.jsonl", "dev.jsonl"),
    ),
    "other names train": (["tickets.jsonl", "test.jsonl"], {}, ("tickets.jsonl", "test.jsonl")),
    "trainer is no split": (["trainer_2.jsonl"], {}, ("trainer_2.jsonl", "trainer_2.jsonl")),
    "only validation": (["validation.jsonl"], {}, ("validation.jsonl", "validation.jsonl")),
}


@pytest.mark.parametrize("name", SPLIT_FILES)
def test_splits_of_files(name: str, tmp_path: Path) -> None:
    files, splits, (train, evaluation) = SPLIT_FILES[name]
    for file in files:
        rows = [{"prompt": f"{file} {at}", "completion": file} for at in range(10)]
        (tmp_path / file).write_text(jsonl(rows))
    loaded = load(files_plan(tmp_path, "*.jsonl", splits=splits), None)
    assert {row["completion"] for row in loaded.train} == {train}
    assert {row["completion"] for row in loaded.evaluation} == {evaluation}
    both = [row["prompt"] for row in (*loaded.train, *loaded.evaluation)]
    assert len(both) == len(set(both))


@pytest.mark.parametrize(
    ("files", "splits", "reason", "says"),
    [
        (["train.jsonl"], {"train": "nope"}, "SplitNotFound", "no split 'nope'; it has 'train'"),
        (["train.jsonl"], {"evaluation": "test"}, "SplitNotFound", "it has 'train'"),
        (["train.jsonl"], {"evaluation": "train"}, "SplitNotFound", "trains already"),
        (["test.jsonl", "dev.jsonl"], {}, "SplitAmbiguous", "set spec.splits.train"),
    ],
)
def test_splits_that_do_not_exist(
    files: list[str], splits: dict[str, Any], reason: str, says: str, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).write_text(jsonl(ROWS[:3]))
    with pytest.raises(RunError) as refused:
        load(files_plan(tmp_path, "*.jsonl", splits=splits), None)
    assert refused.value.reason == reason
    assert says in refused.value.message


def test_glob_names_what_is_there(tmp_path: Path) -> None:
    for at in range(8):
        (tmp_path / f"{at}.csv").touch()
    with pytest.raises(RunError, match=r"there are '0.csv'.*'4.csv' and 3 more") as refused:
        load(files_plan(tmp_path, "*.jsonl"), None)
    assert refused.value.reason == "NoFiles"
    with pytest.raises(RunError, match="doesn't exist in the pod"):
        load(files_plan(tmp_path / "nowhere", "*.jsonl"), None)
    with pytest.raises(RunError, match=r"may not contain '\.\.'"):
        load(files_plan(tmp_path, "../*.jsonl"), None)


def test_config_map_copies_are_not_read_twice(tmp_path: Path) -> None:
    (tmp_path / "..2026_01_01").mkdir()
    (tmp_path / "..2026_01_01" / "rows.jsonl").write_text(jsonl(ROWS))
    (tmp_path / "..data").symlink_to("..2026_01_01")
    (tmp_path / "rows.jsonl").symlink_to("..data/rows.jsonl")
    loaded = load(files_plan(tmp_path, "**/*.jsonl"), None)
    assert len(loaded.train) + len(loaded.evaluation) == 100


def test_files_outside_the_volume_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text(jsonl(ROWS))
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "rows.jsonl").symlink_to("../outside.jsonl")
    with pytest.raises(RunError) as refused:
        load(files_plan(tmp_path / "volume", "*.jsonl"), None)
    assert refused.value.reason == "NoFiles"


def test_column_types(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"s": "a", "i": 1, "f": 1, "b": True, "l": [1], "m": {"x": 1}, "t": turns, "n": None},
        {"s": "b", "i": 2, "f": 0.5, "b": None, "l": [], "m": {}, "t": turns, "mixed": 1},
        {"mixed": "x"},
        {"mixed": "y"},
    ]
    (tmp_path / "rows.jsonl").write_text(jsonl(rows))
    loaded = load(files_plan(tmp_path, "*"), None)
    types = {column.name: column.type for column in loaded.columns}
    assert types == {
        "s": "string",
        "i": "int",
        "f": "float",
        "b": "bool",
        "l": "list",
        "m": "map",
        "t": "messages",
        "n": "null",
        "mixed": "string",
    }
    mixed = [problem for problem in loaded.problems if problem.field == "mixed"]
    assert "int in 1 rows, string in 2 rows" in mixed[0].message


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
FORMATS: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "empty completion": ("promptCompletion", [{"prompt": "a", "completion": " "}], "is empty"),
    "prompt is a list": ("promptCompletion", [{"prompt": [1], "completion": "c"}], "is a list"),
    "column missing": ("promptCompletion", [{"question": "a"}], "columns are 'question'"),
    "one text missing": ("text", [{"text": "a"}, {"text": ""}], "is empty"),
    "no answer": ("messages", [{"messages": TURNS}, {"messages": TURNS[:1]}], "no turn of the"),
    "bad role": (
        "messages",
        [{"messages": TURNS}, {"messages": [{"role": "robot", "content": "x"}]}],
        "role isn't one of",
    ),
    "ShareGPT without an answer": (
        "messages",
        [{"messages": TURNS}, {"messages": [{"from": "human", "value": "x"}]}],
        "no turn of the assistant",
    ),
    "ShareGPT's unknown speaker": (
        "messages",
        [{"messages": TURNS}, {"messages": [{"from": "robot", "value": "x"}]}],
        "whose from isn't one of",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_rows_that_do_not_fit_the_format_are_noted(name: str, tmp_path: Path) -> None:
    format, rows, says = FORMATS[name]
    (tmp_path / "rows.jsonl").write_text(jsonl(rows))
    problems = load(files_plan(tmp_path, "*", rows=format), None).problems
    assert any(says in problem.message for problem in problems)


@pytest.mark.parametrize(
    ("format", "row", "reason"),
    [
        ("text", {"body": "a"}, "ColumnMissing"),
        ("messages", {"prompt": "a"}, "ColumnMissing"),
        ("messages", {"messages": "a"}, "NoUsableRows"),
        ("preference", {"prompt": "a", "chosen": "b"}, "ColumnMissing"),
        ("text", {"text": ""}, "NoUsableRows"),
    ],
)
def test_datasets_without_a_usable_row_are_refused(
    format: str, row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(jsonl([row] * 3))
    with pytest.raises(RowsRefusedError) as refused:
        load(files_plan(tmp_path, "*", rows=format), None)
    assert refused.value.reason == reason


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_cells_that_something_else_separates(delimiter: str, tmp_path: Path) -> None:
    """It is found from the header, and told; the user may say it."""
    rows = [
        {"prompt": "a, b", "completion": "c"},
        {"prompt": 'd "e"', "completion": "f\ng, h"},
    ] * 15
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["prompt", "completion"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    found = load(files_plan(tmp_path, "*.csv", "csv", splits={"evaluationFraction": 0.0}), None)
    assert found.train == rows
    told = [problem.message for problem in found.problems]
    name = "tabs" if delimiter == "\t" else f"'{delimiter}'"
    assert any(
        f"cells are separated by {name}" in each and "csv.delimiter" in each for each in told
    )
    plan = files_plan(tmp_path, "*.csv", "csv", splits={"evaluationFraction": 0.0})
    given = plan.to_json()["files"] | {"delimiter": delimiter}
    stated = load(plan.model_validate(plan.to_json() | {"files": given}), None)
    assert (stated.train, stated.problems) == (rows, [])


def test_a_first_line_that_says_what_separates_cells(tmp_path: Path) -> None:
    """As spreadsheets write it: it is no header, whatever the header has."""
    for text, delimiter in (("sep=;\na,b;c\n1;2\n", ";"), ("SEP=,\r\na;x,b\r\n1,2\r\n", ",")):
        path = tmp_path / "rows.csv"
        path.write_text(text)
        assert delimiter_of(path) == delimiter
        plan = files_plan(tmp_path, "*.csv", "csv", splits={"evaluationFraction": 0.0})
        (row,) = load(plan, None).train
        assert list(row.values()) == ["1", "2"]


@pytest.mark.parametrize(("delimiter", "name"), [(":", "':'"), ("^", "'^'"), (" ", "spaces")])
def test_a_refusal_says_that_something_else_may_separate_cells(
    delimiter: str, name: str, tmp_path: Path
) -> None:
    """Whether the cells are quoted or not."""
    for cells in ('"a"{}b', "a,b{}c"):
        row = cells.format(delimiter)
        (tmp_path / "rows.csv").write_text(f"prompt{delimiter}completion\n{row}\n")
        with pytest.raises(
            RowsRefusedError, match=f"set csv.delimiter of the source to {re.escape(name)}"
        ):
            load(files_plan(tmp_path, "*.csv", "csv"), None)


@pytest.mark.parametrize(
    "text", ["text\na; b\nc|d\n", "text, more\na;b,c\n", "a;b\n1;2;3\n4\n", "x\n", ""]
)
def test_commas_are_taken_unless_another_fits(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    assert delimiter_of(path) == ","

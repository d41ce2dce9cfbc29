"""Odd columns of Parquet: each type's values, as text, say what was written, or they are told."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_data import (
    BOS,
    DRAWN,
    MANY,
    TEXTS,
    UNHURRIED_SECONDS,
    Laboratory,
    ended,
    make_laboratory,
)
from pydantic import TypeAdapter

__all__ = ["make_laboratory"]

PROMPT = {"prompt": "{v}", "completion": "{c}"}
CODECS = ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]


@dataclass(frozen=True)
class Kind:
    """A type, its values, and whether a text says one of them."""

    type: Any
    values: st.SearchStrategy[Any]
    says: Callable[[str, Any], bool]


def same(text: str, value: Any) -> bool:
    return text == value


def number(text: str, value: Any) -> bool:
    return json.loads(text) == value and text == json.dumps(value)


def narrow(kind: Any) -> Callable[[str, Any], bool]:
    # As few digits as tell it from its neighbours.
    return lambda text, value: (
        kind(float(text)) == kind(value) and len(text) <= len(repr(float(str(kind(value)))))
    )


def structure(text: str, value: Any) -> bool:
    return json.loads(text) == value


def nanoseconds(text: str) -> int:
    seconds = decimal.Decimal(text.strip("-PTS"))
    return int(seconds * 10**9) * (-1 if text.startswith("-") else 1)


def clock(text: str) -> int:
    hours, minutes, seconds = text.split(":")
    whole = (int(hours) * 60 + int(minutes)) * 60 * 10**9
    return whole + int(decimal.Decimal(seconds) * 10**9)


INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ITEMS = st.fixed_dictionaries({"a": st.none() | TEXTS, "n": st.none() | INTS})
DATES = st.dates()
TIMES = st.datetimes(min_value=dt.datetime(1700, 1, 1), max_value=dt.datetime(2260, 1, 1))
ITEM = pa.struct([("a", pa.string()), ("n", pa.int64())])
KINDS: dict[str, Kind] = {
    "string": Kind(pa.string(), TEXTS, same),
    "large string": Kind(pa.large_string(), TEXTS, same),
    "dictionary": Kind(pa.dictionary(pa.int32(), pa.string()), TEXTS, same),
    "int64": Kind(pa.int64(), INTS, number),
    "uint64": Kind(pa.uint64(), st.integers(0, 2**64 - 1), number),
    "int8": Kind(pa.int8(), st.integers(-128, 127), number),
    "bool": Kind(pa.bool_(), st.booleans(), lambda text, value: text == str(value).lower()),
    "float64": Kind(pa.float64(), FLOATS, number),
    "float32": Kind(pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False),
                    narrow(np.float32)),
    "float16": Kind(pa.float16(), st.floats(width=16, allow_nan=False, allow_infinity=False),
                    narrow(np.float16)),
    "decimal": Kind(pa.decimal128(38, 9),
                    st.decimals(-(10**20), 10**20, places=9, allow_nan=False),
                    lambda text, value: decimal.Decimal(text) == value),
    "small decimal": Kind(pa.decimal128(20, 15), st.decimals(0, 1, places=15, allow_nan=False),
                          lambda text, value: "E" not in text and decimal.Decimal(text) == value),
    "wide decimal": Kind(pa.decimal256(60, 5),
                         st.decimals(-(10**50), 10**50, places=5, allow_nan=False),
                         lambda text, value: text == format(value, "f")),
    "duration": Kind(pa.duration("us"), st.timedeltas(),
                     lambda text, value: TypeAdapter(dt.timedelta).validate_python(text) == value),
    "duration in nanoseconds": Kind(pa.duration("ns"), st.integers(-(10**9), 10**9),
                                    lambda text, value: nanoseconds(text) == value),
    "time in nanoseconds": Kind(
        pa.time64("ns"), st.integers(0, 86_400 * 10**9 - 1) | st.just(10**9),
        lambda text, value: clock(text) == value),
    "date": Kind(pa.date32(), DATES, lambda text, value: dt.date.fromisoformat(text) == value),
    "time": Kind(pa.time64("us"), st.times(),
                 lambda text, value: dt.time.fromisoformat(text) == value),
    "timestamp": Kind(pa.timestamp("us"), TIMES,
                      lambda text, value: dt.datetime.fromisoformat(text) == value),
    "timestamp of a zone": Kind(
        pa.timestamp("us", "Europe/Rome"), TIMES.map(lambda each: each.replace(tzinfo=dt.UTC)),
        lambda text, value: dt.datetime.fromisoformat(text) == value),
    "nanoseconds": Kind(pa.timestamp("ns"), TIMES,
                        lambda text, value: dt.datetime.fromisoformat(text) == value),
    "uuid": Kind(pa.uuid(), st.uuids().map(lambda each: each.bytes),
                 lambda text, value: uuid.UUID(text).bytes == value),
    "list": Kind(pa.list_(pa.string()), st.lists(st.none() | TEXTS, max_size=3), structure),
    "list of narrow floats": Kind(pa.list_(pa.float32()), st.lists(st.sampled_from([0.1, 2.5])),
                                  structure),
    "struct": Kind(ITEM, ITEMS, structure),
    "list of structs": Kind(pa.list_(ITEM), st.lists(st.none() | ITEMS, max_size=3), structure),
    "struct of structs": Kind(pa.struct([("in", ITEM), ("d", pa.date32())]),
                              st.fixed_dictionaries({"in": st.none() | ITEMS, "d": st.none()}),
                              structure),
    "map": Kind(pa.map_(pa.string(), pa.int64()),
                st.dictionaries(TEXTS, INTS, max_size=2).map(lambda each: list(each.items())),
                lambda text, value: json.loads(text) == [list(pair) for pair in value]),
}  # fmt: skip


@st.composite
def columns(draw: st.DrawFn) -> tuple[str, list[Any], str, int]:
    """A column: its kind, its cells, and how the file is written."""
    name = draw(st.sampled_from(list(KINDS)))
    cells = draw(st.lists(st.none() | KINDS[name].values, min_size=1, max_size=6))
    return name, cells, draw(st.sampled_from(CODECS)), draw(st.integers(1, 3))


def check(laboratory: Laboratory, column: tuple[str, list[Any], str, int]) -> None:
    name, cells, codec, group = column
    kind = KINDS[name]
    table = pa.table(
        {
            "v": pa.array(cells, kind.type),
            "c": [f"answer {at}" for at in range(len(cells))],
            "key": pa.array([b"unused"] * len(cells)),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression=codec, row_group_size=group)
    dataset = {"format": "promptCompletion"}
    content = sink.getvalue().to_pybytes()
    found = laboratory.find(content, "parquet", dataset=dataset, prompt=PROMPT)
    assert found.inspection.status == "succeeded", found.inspection.message
    assert [p["message"] for p in found.problems if p.get("field") == "key"]
    assert found.inputs is not None, found.refusal
    missing = name.startswith("float") and _missing(cells)
    for at, ((text, learned), cell) in enumerate(zip(found.texts(), cells, strict=True)):
        assert learned == ended(f"answer {at}")
        said = text.removeprefix(BOS).removesuffix(learned)
        if cell is None:
            assert said == ""
        elif missing:
            # What pandas makes of whole numbers, some of which are missing.
            assert said == str(int(cell))
        else:
            assert kind.says(said, cell), (said, cell)


def _missing(cells: list[Any]) -> bool:
    known = [cell for cell in cells if cell is not None]
    whole = all(cell == math.trunc(cell) and abs(cell) <= 2**53 for cell in known)
    return whole and len(known) < len(cells)


@DRAWN
@given(column=columns())
def test_columns(laboratory: Laboratory, column: tuple[str, list[Any], str, int]) -> None:
    check(laboratory, column)


@pytest.mark.exhaustive
@pytest.mark.timeout(UNHURRIED_SECONDS)
@MANY
@given(column=columns())
def test_many_columns(laboratory: Laboratory, column: tuple[str, list[Any], str, int]) -> None:
    check(laboratory, column)


UNREADABLE: dict[str, tuple[Any, int | None, str]] = {
    "a date after the year 9999": (
        pa.array([0, 5_000_000], pa.int32()).cast(pa.date32()),
        2,
        "'v'",
    ),
    "a zone that nobody knows": (
        pa.array([None, 7], pa.timestamp("us", "Mars/Olympus")),
        2,
        "unknown time zone",
    ),
    "lists of one size, one of which is null": (
        pa.array([[0.5, 1.0], None], pa.list_(pa.float32(), 2)),
        None,
        "column 'v' of the file can't be read",
    ),
    "two columns of a name": (None, None, "2 columns 'c'"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_named(laboratory: Laboratory, case: str) -> None:
    cells, row, words = UNREADABLE[case]
    answers = pa.array(["a", "b"])
    table = (
        pa.table([answers, answers], names=["c", "c"])
        if cells is None
        else pa.table({"v": cells, "c": answers})
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    found = laboratory.find(
        content, "parquet", dataset={"format": "promptCompletion"}, prompt=PROMPT
    )
    found.check_refused()
    assert found.inspection.reason == "InvalidRows"
    assert found.problems[0].get("row") == row
    assert found.problems[0]["field"] in ("v", "c")
    assert words in found.problems[0]["message"]


def test_arguments_that_a_call_does_not_give_are_not_null(laboratory: Laboratory) -> None:
    """A struct of Parquet has the arguments of all calls."""
    calls = [{"at": "Rome"}, {"unit": "C"}]
    chats = [
        [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "sky", "arguments": given}}],
            },
        ]
        for given in calls
    ]
    table = pa.table({"messages": pa.array(chats)})
    assert table.to_pylist()[0]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {
        "at": "Rome",
        "unit": None,
    }
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    found = laboratory.find(
        sink.getvalue().to_pybytes(), "parquet", dataset={"format": "messages"}, template=template
    )
    texts = [text for text, _ in found.texts()]
    assert texts == [f"[user]q[assistant]sky{json.dumps(given)}<eos>" for given in calls]

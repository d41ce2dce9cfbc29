"""Files that aren't what they should be: inspection and job refuse them alike, by row."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.orc as orc
import pytest
from odd_data import (
    Laboratory,
    make_laboratory,
)

__all__ = ["make_laboratory"]

GOOD = b'{"text": "good"}\n'
ROWS: dict[str, tuple[bytes, str]] = {
    "a column twice": (b'{"text": "a", "text": "b"}', "names 'text' twice"),
    "a field twice": (b'{"text": "a", "meta": [{"k": 1, "k": 2}]}', "names 'k' twice"),
    "NaN": (b'{"text": "a", "n": NaN}', "NaN is not JSON"),
    "a number beyond floats": (b'{"text": "a", "n": [1e999]}', "too large for a float"),
    "a number of 5,000 digits": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "4300 digits"),
    "half a pair": (b'{"text": "\\ud83d"}', "half of a surrogate pair"),
    "half a pair in a list": (b'{"text": "a", "l": ["\\udc00"]}', "half of a surrogate pair"),
    "half a pair in a name": (b'{"text": "a", "\\ud83d": 1}', "half of a surrogate pair"),
    "half a pair in an empty name": (b'{"text": "a", "\\ud83d": null}', "half of a surrogate"),
    "150 lists": (b'{"text": "a", "l": ' + b"[" * 150 + b"]" * 150 + b"}", "more than 100 nested"),
    "900 maps": (b'{"text": "a", "l": ' + b'{"k":' * 900 + b"1" + b"}" * 901, "nested lists"),
    "50,000 lists": (b'{"text": "a", "l": ' + b"[" * 50000 + b"]" * 50000 + b"}", "lists and maps"),
    "Latin-1": ('{"text": "é"}'.encode("latin-1"), "isn't UTF-8"),
    "half a character": (b'{"text": "\xf0\x9f"}', "isn't UTF-8"),
    "an array": (b'["text"]', "JSON array"),
    "a text": (b'"text"', "JSON string"),
    "nothing": (b"null", "JSON null"),
    "quotes of Python": (b"{'text': 'a'}", "isn't JSON"),
    "two objects": (b'{"text": "a"} {"text": "b"}', "isn't JSON"),
    "a line break in a text": (b'{"text": "a\nb"}', "isn't JSON"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_that_cannot_be_read_is_named(laboratory: Laboratory, case: str) -> None:
    row, words = ROWS[case]
    found = laboratory.find(GOOD + b"\n" + row + b"\n" + GOOD, dataset={"format": "text"})
    found.check_refused()
    assert found.inspection.reason == "InvalidRows"
    assert found.problems[0]["row"] == 3
    assert words in found.problems[0]["message"]


@pytest.mark.parametrize("case", ["a column twice", "NaN", "150 lists", "50,000 lists"])
def test_so_it_is_in_a_document(laboratory: Laboratory, case: str) -> None:
    row, words = ROWS[case]
    content = b"[" + GOOD + b"," + row + b"]"
    found = laboratory.find(content, "json", dataset={"format": "text"})
    found.check_refused()
    assert found.inspection.reason == "InvalidRows"
    assert words in found.problems[0]["message"]


def orc_of(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    orc.write_table(pa.table({"text": [data.decode()]}), sink)
    return sink.getvalue().to_pybytes()


PACKED = {
    "gzip": (gzip.compress, "gunzip"),
    "bzip2": (bz2.compress, "bunzip2"),
    "xz": (lzma.compress, "unxz"),
    "LZMA": (lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE), "unlzma"),
    "UTF-16 without a mark": (lambda data: data.decode().encode("utf-16-le"), "UTF-16"),
    "ORC": (lambda data: orc_of(data), "ORC"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "UTF-16"),
}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("case", PACKED)
def test_packed_files_say_so(laboratory: Laboratory, case: str, suffix: str) -> None:
    pack, words = PACKED[case]
    found = laboratory.find(pack(GOOD), suffix, dataset={"format": "text"})
    found.check_refused()
    assert found.inspection.reason == "InvalidRows"
    assert words in found.problems[0]["message"]


def test_escapes_within_a_text_of_a_row(laboratory: Laboratory) -> None:
    """JSON in a text is unpacked later: what it hides leaves the row out, and crashes nothing."""
    hidden = ['{"at": "\\ud83d"}', '{"at": NaN}', '{"at": 1, "at": 2}', "[1]", "1", '{"at": 1e999}']
    calls = [{"function": {"name": "sky", "arguments": text}} for text in hidden]
    good = {"role": "assistant", "content": "a"}
    rows = [
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}
        for call in calls
    ]
    rows += [{"messages": [good], "tools": '[{"name": "sky", "x": "\\ud83d"}]'}]
    rows += [{"messages": [{"from": "function_call", "value": '{"name": "\\ud83d"}'}]}]
    rows += [{"messages": [good]}]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = laboratory.find(content, dataset={"format": "messages"})
    found.check_agreed()
    assert found.checks["unusableRows"] == len(rows) - 1
    assert found.named >= set(range(1, len(rows)))
    assert len(found.rows) == 1

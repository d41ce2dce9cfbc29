"""Nothing that is small grows large while it is read, and what is refused says at which limit."""

import base64
import contextlib
import json
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kubetune.api.bounded import (
    ANSWER,
    NOTE,
    OUTCOME,
    SETTINGS,
    LimitError,
    Limits,
    Unpacker,
    file_bytes,
    float_of,
    inflated,
    json_value,
)
from kubetune.api.foreign import error_fields, first_line, version_in
from kubetune.api.run.evaluation_plan import EvaluationSummary
from kubetune.api.run.outcome import OUTCOME_REFUSED, Outcome
from kubetune.api.run.plan import decode_plan, encode_plan
from kubetune.api.yaml_text import YamlError, plain_value, read
from kubetune.clients.cml_models import variables
from kubetune.clients.deep_objects import cut, nests_deeply

CORPUS = Path(__file__).parent / "corpus"
SMALL = Limits(received=1000, unpacked=5000, nodes=100, depth=10)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (b'"' + b"x" * 5000 + b'"', "unpacked"),
        (b"[" + b"1," * 200 + b"1]", "nodes"),
        (b"[" * 11 + b"]" * 11, "depth"),
        (b'{"a":' * 20 + b"1" + b"}" * 20, "depth"),
        (b"[" * 1000 + b"]" * 1000, "nodes"),
    ],
)
def test_a_json_text_is_refused_at_its_limit(text: bytes, limit: str) -> None:
    with pytest.raises(LimitError, match=r"it has .*read$") as caught:
        json_value(text, SMALL)
    assert caught.value.limit == limit


def test_what_is_within_the_limits_is_read() -> None:
    value = {"a": [1, 2.5, None, "ä", {"b": []}]}
    assert json_value(json.dumps(value), SMALL) == value
    assert json_value(b"[" * 10 + b"]" * 10, SMALL)


@pytest.mark.parametrize(
    "text", ["", "{", "[1,]", '{"a": 9' + "9" * 5000 + "}", "\ud800", "[" * 10**5]
)
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        json_value(text, NOTE)


def test_a_packed_text_is_unpacked_up_to_its_limit() -> None:
    packed = zlib.compress(b"0" * 50_000_000, 9)
    with pytest.raises(LimitError) as caught:
        inflated(packed, OUTCOME)
    assert caught.value.limit == "unpacked"
    assert inflated(zlib.compress(b"abc"), OUTCOME) == b"abc"
    with pytest.raises(ValueError, match="its end is missing"):
        inflated(zlib.compress(b"abc" * 1000)[:-5], OUTCOME)


@pytest.mark.parametrize("wbits", [15, 31])
def test_an_answer_is_unpacked_while_it_comes(wbits: int) -> None:
    packer = zlib.compressobj(9, wbits=wbits)
    packed = packer.compress(b"0" * 20_000_000) + packer.flush()
    unpacker = Unpacker("gzip", ANSWER)
    pieces = [packed[at : at + 1000] for at in range(0, len(packed), 1000)]
    with pytest.raises(LimitError):
        list(map(unpacker.feed, pieces))
    assert unpacker.unpacked <= ANSWER.unpacked + 1
    twice = zlib.compressobj(wbits=wbits)
    one = twice.compress(b"abc") + twice.flush()
    assert Unpacker("gzip", ANSWER).feed(one + one) == b"abcabc"


def test_an_outcome_that_unpacks_to_gigabytes_fails_its_run() -> None:
    text = "zlib:" + base64.b85encode(zlib.compress(b'{"a":"' + b"0" * 10**8, 9)).decode()
    assert len(text) < 200_000
    outcome = Outcome.from_message(text)
    assert outcome
    assert (outcome.status, outcome.reason) == ("failed", OUTCOME_REFUSED)
    assert "262,144 bytes once it is unpacked" in outcome.message
    assert not outcome.retryable


@pytest.mark.parametrize("summary", ["[" * 100 + "]" * 100, "[" + "1," * 30_000 + "1]"])
def test_an_outcome_of_many_values_fails_its_run(summary: str) -> None:
    text = f'{{"status":"succeeded","reason":"Trained","summary":{{"a":{summary}}}}}'
    outcome = Outcome.from_message(text)
    assert outcome
    assert outcome.reason == OUTCOME_REFUSED


def test_the_log_of_an_outcome_stays_short() -> None:
    made = Outcome(status="failed", reason="Failed", log="line\n" * 20_000)
    found = Outcome.from_message(json.dumps(made.to_json()))
    assert found
    assert len(found.log) < 5000


def test_a_number_that_no_float_holds_is_none() -> None:
    assert float_of(10**400) is None
    assert float_of(True) is None
    assert float_of(3) == 3.0


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1001)
    with pytest.raises(LimitError):
        file_bytes(path, SMALL)
    with pytest.raises(LimitError):
        file_bytes(Path("/dev/zero"), SMALL)


def test_a_plan_comes_back_and_a_bomb_does_not() -> None:
    assert decode_plan(encode_plan({"a": 1})) == {"a": 1}
    bomb = base64.b64encode(zlib.compress(b" " * 10**8, 9)).decode()
    with pytest.raises(ValueError, match="the plan can't be read"):
        decode_plan(bomb)


# Fuzzing: every reader takes any bytes, quickly.


def yaml_of(data: bytes) -> None:
    text = data.decode(errors="replace")
    for reader in (lambda: list(read(text, SETTINGS)), lambda: plain_value(text, SETTINGS)):
        with contextlib.suppress(YamlError):
            reader()


def json_of(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        json_value(data, NOTE)


def packed_of(data: bytes) -> None:
    for encoding in ("gzip", "deflate", ""):
        with contextlib.suppress(ValueError):
            Unpacker(encoding, ANSWER).feed(data)


def plan_of(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_plan(data.decode(errors="replace"))


READERS: dict[str, Any] = {
    "yaml": yaml_of,
    "json": json_of,
    "packed": packed_of,
    "plan": plan_of,
    "outcome": lambda data: Outcome.from_message(data.decode(errors="replace")),
    "outcome_packed": lambda data: Outcome.from_message(
        "zlib:" + base64.b85encode(zlib.compress(data)).decode()
    ),
    "summary": lambda data: EvaluationSummary.of_tag(data.decode(errors="replace")),
    "variables": lambda data: variables(data.decode(errors="replace")),
    "error": error_fields,
    "line": lambda data: first_line(data.decode(errors="replace")),
    "version": lambda data: version_in(data.decode(errors="replace")),
    "objects": lambda data: cut(data) if nests_deeply(data) else data,
}
PIECES = st.sampled_from(
    [b"[", b"]", b"{", b"}", b'"', b"\\", b":", b",", b"&a ", b"*a", b"- ", b"? ", b"<<: ", b"\n",
     b"  ", b"9" * 500, b"1e999", b"NaN", b"null", b"a", b"!!set ", b"|\n", b"\xff", b"\x00",
     b"\x1f\x8b", b"x\x9c", b"zlib:", b'"status":"succeeded"', b'"object":', b'"items":']
)  # fmt: skip
TEXTS = st.lists(st.tuples(PIECES, st.integers(1, 200)), max_size=30).map(
    lambda found: b"".join(piece * times for piece, times in found)
)


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def takes(name: str, data: bytes) -> None:
    began = time.thread_time()
    READERS[name](data)
    # Own time on the processor, with room for a slow machine: what is wanted are 200 ms.
    assert time.thread_time() - began < 2, data[:200]


@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_what_once_stopped_one(name: str) -> None:
    for data in corpus():
        takes(name, data)


def search(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=examples < 1000)
    @given(st.binary(max_size=2000) | TEXTS)
    @example(b"")
    def taken(data: bytes) -> None:
        takes(name, data)

    taken()


@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_anything(name: str) -> None:
    search(name, 60)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_anything_for_long(name: str) -> None:
    search(name, 20_000)

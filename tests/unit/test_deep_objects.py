"""An object whose values nest too deeply is cut, and nothing else in a list or a watch."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubetune.clients.deep_objects import MAX_DEPTH, NESTED, cut, nests_deeply
from pydantic_core import from_json


def nested(depth: int, last: str = "1") -> str:
    """Lists and maps in turns, as text: what makes text of values gives up, too."""
    pairs = depth // 2
    return '[{"a":' * pairs + last + "}]" * pairs


def body(name: str, spec: str, fields: str = '{"f:spec":{}}') -> str:
    return (
        f'{{"kind":"Dataset","metadata":{{"name":"{name}","managedFields":[{{"fieldsV1":{fields}}}],'
        f'"uid":"u-{name}"}},"spec":{{"rows":{spec}}},"status":{{"phase":"x"}}}}'
    )


@pytest.mark.parametrize("depth", [150, 1000, 9000])
@pytest.mark.parametrize("form", ["list", "event", "object"])
def test_only_what_nests_is_cut(depth: int, form: str) -> None:
    deep, flat = body("deep", nested(depth), nested(depth)), body("flat", nested(20))
    text = {
        "list": f'{{"items":[{flat},{deep},{flat}],"metadata":{{"resourceVersion":"7"}}}}',
        "event": f'{{"type":"ADDED","object":{deep}}}',
        "object": deep,
    }[form].encode()
    assert nests_deeply(text)
    value: Any = from_json(cut(text))
    if form == "list":
        assert value["metadata"] == {"resourceVersion": "7"}
        assert value["items"][0] == value["items"][2] == json.loads(flat)
    found = {"list": lambda: value["items"][1], "event": lambda: value["object"]}.get(
        form, lambda: value
    )()
    assert found["spec"] == {NESTED: True}
    assert found["metadata"] == {"name": "deep", "managedFields": None, "uid": "u-deep"}
    assert found["status"] == {"phase": "x"}


@pytest.mark.parametrize("text", ["[" * 500, '{"a":"' + "[{" * 500 + '\\"]"}', "]" * 500])
def test_brackets_of_texts_cut_nothing(text: str) -> None:
    data = json.dumps({"object": {"spec": {"prompt": text}}}).encode()
    assert nests_deeply(data)
    assert cut(data) == data


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_what_is_flat_stays_as_it_is(value: Any) -> None:
    data = json.dumps(value).encode()
    assert cut(data) == data


@given(st.binary(max_size=300))
def test_what_is_no_json_is_no_crash(data: bytes) -> None:
    nests_deeply(data)
    cut(data)
    cut(b"[" * MAX_DEPTH + data)

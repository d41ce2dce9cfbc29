"""Random specs, valid and damaged, from a kind's rendered schema."""

import copy
import re
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

_EXACTLY_ONE = re.compile(r"has\(self\.(\w+)\) \? 1 : 0")
_LETTERS = st.characters(exclude_categories=["Cs", "Cc"])
_SCALARS = (
    st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(_LETTERS, max_size=8)
)
_FREE = st.recursive(
    st.none() | _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abcZ_. é", max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, 1.0, 16.0, -0.0, 1e-4, 1e300, 2**31, 2**53 + 1, 10**20,
    "", "x", "3", "true", "null", "lora", "Ünï-cödé", "a" * 300, "a\nb", "a\n", " a", "a/b", "/a",
    "http://a@b", "https://h/p?q", "\u00a0", "１２", [], [None], [1], ["x"], ["x", "x"],
    {}, {"x": 1}, {"x": None}, {"name": "x"}, {"name": "x", "value": "v"},
)  # fmt: skip


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that the schema's own keywords accept; rules across fields hold mostly."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "object":
        return _objects(schema)
    if schema.get("type") == "array":
        low = schema.get("minItems", 0)
        high = min(schema.get("maxItems", 3), low + 3)
        return st.lists(values(schema["items"]), min_size=low, max_size=high)
    return _scalars(schema)


def _scalars(schema: Schema) -> st.SearchStrategy[Any]:
    match schema.get("type"):
        case "string":
            return _texts(schema)
        case "integer":
            low, high = schema.get("minimum", -(2**31)), schema.get("maximum", 2**31 - 1)
            return st.sampled_from([low, high, min(low + 1, high)]) | st.integers(low, high)
        case "number":
            return st.floats(
                schema.get("minimum", -1e9),
                schema.get("maximum", 1e9),
                exclude_min=schema.get("exclusiveMinimum", False),
                exclude_max=schema.get("exclusiveMaximum", False),
            )
        case "boolean":
            return st.booleans()
        case _:
            return _FREE


def _texts(schema: Schema) -> st.SearchStrategy[str]:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 64)
    if "pattern" in schema:
        pattern = schema["pattern"]
        return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True).filter(
            lambda text: low <= len(text) <= high
        )
    text = st.text(_LETTERS, min_size=low, max_size=min(high, low + 12))
    return text | st.just("é" * high) if high <= 4096 else text


def _objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    properties: dict[str, Schema] = schema.get("properties", {})
    if not properties:
        inner = values(schema.get("additionalProperties", {}))
        size = min(schema.get("maxProperties", 3), 3)
        return st.dictionaries(st.text("abcz./-é", max_size=6), inner, max_size=size)
    required = set(schema.get("required", ()))
    choices = [
        _EXACTLY_ONE.findall(rule["rule"])
        for rule in schema.get("x-kubernetes-validations", ())
        if rule["rule"].endswith("== 1")
    ]

    @st.composite
    def objects(draw: st.DrawFn) -> dict[str, Any]:
        optional = sorted(set(properties) - required - {n for names in choices for n in names})
        given = required | set(
            draw(st.lists(st.sampled_from(optional), max_size=4)) if optional else ()
        )
        for names in choices:
            given.add(draw(st.sampled_from(names)))
        # In the order of the schema, so that shrinking is stable.
        return {name: draw(values(properties[name])) for name in properties if name in given}

    return objects()


@st.composite
def specs(draw: st.DrawFn, schema: Schema) -> Any:
    """A spec of the schema, with up to two places damaged."""
    spec = draw(values(schema))
    for _ in range(draw(st.integers(0, 2))):
        spec = _damaged(draw, spec)
    return spec


def _damaged(draw: st.DrawFn, spec: Any) -> Any:
    spec = copy.deepcopy(spec)
    holders = [holder for holder in _holders(spec) if holder]
    if not holders:
        return draw(st.sampled_from(JUNK))
    holder = draw(st.sampled_from(holders))
    key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    match draw(st.sampled_from(["replace", "remove", "add", "rename", "move"])):
        case "replace":
            holder[key] = draw(st.sampled_from(JUNK))
        case "remove":
            del holder[key]
        case "add" if isinstance(holder, dict):
            holder[draw(st.sampled_from(["unknown", "Name", "", "name", "value", "prompt"]))] = (
                draw(st.sampled_from(JUNK))
            )
        case "rename" if isinstance(holder, dict):
            holder[str(key).upper()] = holder.pop(key)
        case _:
            other = draw(st.sampled_from(holders))
            taken = copy.deepcopy(holder[key])
            if isinstance(other, dict):
                other[key if isinstance(key, str) else "item"] = taken
            else:
                other.append(taken)
    return spec


def _holders(value: Any) -> list[Any]:
    """All maps and lists inside a value, itself first."""
    if isinstance(value, dict):
        return [value, *(h for item in value.values() for h in _holders(item))]
    if isinstance(value, list):
        return [value, *(h for item in value for h in _holders(item))]
    return []

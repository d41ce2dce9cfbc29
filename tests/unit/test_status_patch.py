"""The merge patch of a status write."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kubetune.act.status import status_patch

JsonObject = dict[str, Any]

# No null: a status leaves out what it doesn't know.
VALUES = st.recursive(
    st.text(max_size=3) | st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=12,
)
STATUSES = st.dictionaries(st.sampled_from("abcd"), VALUES)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396, as the API server applies it."""
    if not isinstance(patch, dict):
        return patch
    result: JsonObject = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@given(STATUSES, STATUSES)
def test_patch_turns_one_status_into_the_other(old: JsonObject, new: JsonObject) -> None:
    before = copy.deepcopy((old, new))
    patch = status_patch(old, new)
    if patch is None:
        assert old == new
    else:
        assert merged({"status": old}, patch) == {"status": new}
        assert old != new
    assert (old, new) == before


@given(STATUSES)
def test_equal_statuses_need_no_write(status: JsonObject) -> None:
    assert status_patch(status, copy.deepcopy(status)) is None


def test_only_what_changed_is_sent() -> None:
    old = {"phase": "Running", "progress": {"step": 1, "eta": "3s"}, "effective": {"a": 1}}
    new = {"phase": "Running", "progress": {"step": 2}, "effective": {"a": 1}}
    assert status_patch(old, new) == {"status": {"progress": {"step": 2, "eta": None}}}

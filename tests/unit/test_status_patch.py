"""The merge patch of a status write."""

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from kubetune.act.status import status_patch, with_times_kept
from kubetune.api import JsonObject

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


def condition(kind: str, status: str, time: str, reason: str = "A") -> JsonObject:
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": time}


def test_a_condition_that_came_back_as_it_was_has_not_changed() -> None:
    """Decisions in between took it away, and set it again with their time, at the end."""
    old = {
        "conditions": [
            condition("Stalled", "True", "old"),
            condition("Ready", "False", "old"),
            condition("Running", "True", "old"),
        ]
    }
    new = {
        "conditions": [
            condition("Submitted", "True", "new"),
            condition("Ready", "False", "old"),
            condition("Running", "False", "new"),
            condition("Stalled", "True", "new", "B"),
        ]
    }
    assert with_times_kept(old, new)["conditions"] == [
        condition("Stalled", "True", "old", "B"),
        condition("Ready", "False", "old"),
        condition("Running", "False", "new"),
        condition("Submitted", "True", "new"),
    ]
    same = {"conditions": list(reversed([dict(item) for item in old["conditions"]]))}
    assert status_patch(old, with_times_kept(old, same)) is None

"""Conditions as they are written: plain JSON, as it came from the API server."""

from __future__ import annotations

from datetime import UTC, datetime

from kubetune.api.conditions import ConditionType, Reason
from kubetune.api.kinds.status_types import ObjectStatusDict
from kubetune.decide.decision import conditions_of


def test_conditions_are_plain_text_whatever_they_are_set_by() -> None:
    status: ObjectStatusDict = {}
    conditions = conditions_of(status, 1, datetime(2026, 1, 1, tzinfo=UTC))
    conditions.set(ConditionType.READY, False, Reason.QUEUED, "waits")
    conditions.stalled(Reason.INVALID_SPEC, "can't be read")
    conditions.set(ConditionType.READY, False, "Queued", "waits on")
    assert {item["type"] for item in conditions.current} >= {"Ready", "Stalled"}
    for item in conditions.current:
        assert {type(item["type"]), type(item["reason"])} == {str}

"""What the status says when a target refuses an action that was decided."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.backends.base import BackendError
from kubetune.decide.decision import conditions_of
from kubetune.decide.evaluation_candidate import say

JsonObject = dict[str, Any]

REFUSED_RETRY_SECONDS = 30.0


def start_refused(
    status: JsonObject, error: BackendError, generation: int, now: datetime
) -> tuple[JsonObject, float | None]:
    """The target doesn't take a run, now or ever; seconds until it is asked again."""
    conditions = conditions_of(status, generation, now)
    status = status | {"conditions": conditions.current}
    if "candidates" in status:
        _unsubmit(status, error)
    elif "phase" in status:
        status["phase"] = str(Phase.PENDING)
        if not status.get("attempts"):
            status.pop("startTime", None)
        conditions.set(ConditionType.SUBMITTED, False, error.reason, str(error))
    if error.retryable:
        conditions.waiting(error.reason, str(error))
        return status, error.retry_after or REFUSED_RETRY_SECONDS
    conditions.stalled(error.reason or Reason.TARGET_REFUSED, str(error))
    return status, None


def stop_refused(
    status: JsonObject, error: BackendError, generation: int, now: datetime
) -> tuple[JsonObject, float | None]:
    """The target could not be asked to stop or delete something: say so, and try again."""
    conditions = conditions_of(status, generation, now)
    status = status | {"conditions": conditions.current}
    conditions.set(ConditionType.TARGET_AVAILABLE, False, error.reason, str(error))
    return status, error.retry_after or REFUSED_RETRY_SECONDS


def _unsubmit(status: JsonObject, error: BackendError) -> None:
    """Take back that candidates of an Evaluation were submitted; others may be running."""
    candidates: list[JsonObject] = status["candidates"]
    for candidate in candidates:
        running = candidate.get("attempt", {}).get("result") == "Running"
        if candidate["phase"] == "Queued" and not running:
            say(candidate, "Pending", error.reason, str(error))
    if not any(candidate["phase"] in ("Queued", "Running") for candidate in candidates):
        status["phase"] = str(Phase.PENDING)
    if not any("attempt" in candidate for candidate in candidates):
        status.pop("startTime", None)

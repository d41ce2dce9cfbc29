"""What the status says when a target refuses an action that was decided."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kubetune.api.conditions import (
    AttemptResult,
    CandidatePhase,
    ConditionType,
    Phase,
    Reason,
)
from kubetune.api.kinds.status_types import (
    AnyStatusDict,
    EvaluationStatusDict,
    FineTuneJobStatusDict,
    InspectionStateDict,
)
from kubetune.decide.decision import Conditions, Status, conditions_of, parse_time, rfc3339
from kubetune.decide.evaluation.candidate import say
from kubetune.decide.retries import (
    NOT_WATCHED,
    REFUSED_STOP_SECONDS,
    after_inspection,
    after_refusal,
    until_secret,
)
from kubetune.targets.errors import BackendError, CutLooseError


def start_refused(
    status: AnyStatusDict,
    error: BackendError,
    generation: int,
    now: datetime,
) -> tuple[AnyStatusDict, float | None]:
    """The target doesn't take a run, now or ever; seconds until it is asked again."""
    conditions = conditions_of(status, generation, now)
    status = _with(status, conditions)
    if "candidates" in status:
        _unsubmit(status, error)
    elif "phase" in status:
        status["phase"] = Phase.PENDING
        if not status.get("attempts"):
            status.pop("startTime", None)
        conditions.set(ConditionType.SUBMITTED, False, error.reason, str(error))
    if isinstance(error, CutLooseError) and "inspection" in status:
        told, wait = _lost_try(status["inspection"], error, now)
        status["inspection"] = told
        conditions.waiting(Reason.RUN_LOST, told.get("message", ""))
        return status, wait
    if error.retryable:
        conditions.waiting(error.reason, str(error))
        return status, error.retry_after or _retry_wait(conditions, now, error.reason)
    conditions.stalled(error.reason or Reason.TARGET_REFUSED, str(error))
    return status, None


def without_record(status: Mapping[str, Any], before: Mapping[str, Any]) -> Any:
    """The status of a start that came to nothing before its place and its run key were written.

    Where something is recorded, something may run; and nobody waits for that.
    """
    recorded = ("external", "runKey")
    kept = {key: value for key, value in status.items() if key not in recorded}
    return kept | {key: before[key] for key in recorded if key in before}


def stop_refused(
    status: AnyStatusDict, error: BackendError, generation: int, now: datetime
) -> tuple[AnyStatusDict, float | None]:
    """The target could not be asked to stop or delete something: say so, and try again."""
    conditions = conditions_of(status, generation, now)
    status = _with(status, conditions)
    conditions.set(ConditionType.TARGET_AVAILABLE, False, error.reason, str(error))
    return status, error.retry_after or REFUSED_STOP_SECONDS


def output_refused(
    status: FineTuneJobStatusDict, error: BackendError, generation: int, now: datetime
) -> tuple[FineTuneJobStatusDict, float | None]:
    """The cluster doesn't take the Model of a result: the job isn't complete before it does."""
    conditions = conditions_of(status, generation, now)
    status = _with(status, conditions)
    status.pop("completionTime", None)
    status["phase"] = Phase.REGISTERING
    conditions.remove(ConditionType.COMPLETE)
    conditions.waiting(error.reason, str(error))
    return status, _retry_wait(conditions, now, error.reason)


def change_refused(
    status: AnyStatusDict, error: BackendError, generation: int, now: datetime
) -> tuple[AnyStatusDict, float | None]:
    """The cluster doesn't take a change of the object itself, or of what was made for it."""
    candidates = status.get("candidates") or ()
    begun = status.get("attempts") or any("attempt" in item for item in candidates)
    told = stop_refused if begun else start_refused
    return told(status, error, generation, now)


def _with(status: Status, conditions: Conditions) -> Status:
    """A copy with these conditions, which may yet change; its generation stays what was decided."""
    new = status.copy()
    new["conditions"] = conditions.current
    return new


def _lost_try(
    state: InspectionStateDict, error: CutLooseError, now: datetime
) -> tuple[InspectionStateDict, float]:
    """A try of an inspection whose result nobody can read any more: the next one follows."""
    attempts = state.get("attempts", 0) + 1
    wait = float(after_inspection(attempts))
    message = f"{error.what}; it is tried again in {wait:.0f} s"
    return state | {"attempts": attempts, "time": rfc3339(now), "message": message}, wait


def _retry_wait(conditions: Conditions, now: datetime, reason: str) -> float:
    ready = next((item for item in conditions.current if item["type"] == ConditionType.READY), None)
    since = parse_time(ready["lastTransitionTime"]) if ready else None
    return until_secret(since, now) if reason in NOT_WATCHED else after_refusal(since, now)


def _unsubmit(status: EvaluationStatusDict, error: BackendError) -> None:
    """Take back that candidates of an Evaluation were submitted; others may be running."""
    candidates = status.get("candidates") or ()
    for candidate in candidates:
        attempt = candidate.get("attempt")
        running = attempt is not None and attempt["result"] == AttemptResult.RUNNING
        if candidate["phase"] == CandidatePhase.QUEUED and not running:
            say(candidate, CandidatePhase.PENDING, error.reason, str(error))
    moving = (CandidatePhase.QUEUED, CandidatePhase.RUNNING)
    if not any(candidate["phase"] in moving for candidate in candidates):
        status["phase"] = Phase.PENDING
    if not any("attempt" in candidate for candidate in candidates):
        status.pop("startTime", None)

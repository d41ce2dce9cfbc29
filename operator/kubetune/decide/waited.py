"""waitingDeadlineSeconds and queueDeadlineSeconds: two clocks besides that of runs.

An object *waits* while nothing of it is submitted and something that it needs isn't there, and
*queues* while runs of it are submitted and none has begun. One clock goes at a time: what runs is
``deadline``'s to count, and a suspension, a stop and the pause after a failed attempt are nobody's.
Both count all stretches together, in ``status.waitTime`` and ``status.queueTime``, so that neither
another reason to wait nor an input that comes and goes begins them anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kubetune.api.conditions import ConditionType, Phase, Reason
from kubetune.api.kinds.status_types import (
    EvaluationStatusDict,
    FailureDict,
    FineTuneJobStatusDict,
    WaitTimeDict,
)
from kubetune.decide.decision import (
    Running,
    conditions_of,
    parse_time,
    rfc3339,
    shorten,
)
from kubetune.targets.values import RunState

Timed = FineTuneJobStatusDict | EvaluationStatusDict
LOOK_SECONDS = 10.0
"""Between two tries to end what queues, when it wasn't there to be ended the first time."""


@dataclass(frozen=True)
class Stopwatch:
    """Whole seconds, as in status, so that nothing is counted twice."""

    now: datetime
    seconds: int = 0
    """Of the stretches that are over."""
    since: datetime | None = None
    """When the present one began."""

    @property
    def used(self) -> float:
        """All seconds until now."""
        if self.since is None:
            return self.seconds
        return self.seconds + max((self.now - self.since).total_seconds(), 0)

    @property
    def told(self) -> WaitTimeDict | None:
        """What the status says; None where there is nothing to say."""
        if self.since is not None:
            return {"seconds": self.seconds, "since": rfc3339(self.since)}
        return {"seconds": self.seconds} if self.seconds else None

    def going(self) -> Stopwatch:
        """The same while it counts."""
        return self if self.since else replace(self, since=self.now.replace(microsecond=0))

    def stopped(self, at: datetime | None = None) -> Stopwatch:
        """The same from when it doesn't count any more: now, unless that was seen late."""
        if self.since is None:
            return self
        until = min(at, self.now) if at and at >= self.since else self.now
        counted = int((until.replace(microsecond=0) - self.since).total_seconds())
        return replace(self, seconds=self.seconds + max(counted, 0), since=None)

    def left(self, limit: int | None) -> float | None:
        """What is left of a limit; None when there is none."""
        return None if limit is None else limit - self.used


def read(told: WaitTimeDict | None, now: datetime) -> Stopwatch:
    """The clock as a status has it."""
    if told is None:
        return Stopwatch(now)
    return Stopwatch(now, told["seconds"], parse_time(told.get("since")))


def queue_clock(
    told: WaitTimeDict | None, runs: Sequence[RunState], live: Sequence[RunState], now: datetime
) -> Stopwatch:
    """The clock of the queue; ``runs`` are all that the target shows, ``live`` those that count.

    While nobody looked a run may have begun, or even ended: then it queued until it began.
    """
    clock = read(told, now)
    if queues(live):
        return clock.going()
    moments = [run.started_at or run.ended_at for run in runs if run.phase != "pending"]
    since = clock.since
    begun = [moment for moment in moments if moment and since and moment >= since]
    return clock.stopped(min(begun, default=None))


def queues(live: Sequence[RunState]) -> bool:
    """Whether runs wait to begin, and none is under way."""
    return any(run.phase == "pending" for run in live) and all(
        run.phase != "running" for run in live
    )


def note(status: Timed, waiting: Stopwatch, queue: Stopwatch) -> None:
    """Put both clocks into a status."""
    status.pop("waitTime", None)
    status.pop("queueTime", None)
    if waited := waiting.told:
        status["waitTime"] = waited
    if queued := queue.told:
        status["queueTime"] = queued


def halted(status: Running, now: datetime) -> Running:
    """The status of what is suspended, though nobody can say yet what runs."""
    status = status.copy()
    waiting, queue = read(status.get("waitTime"), now), read(status.get("queueTime"), now)
    note(status, waiting.stopped(), queue.stopped())
    return status


def waited_too_long(clock: Stopwatch, limit: int | None, what: str) -> str:
    """The sentence for an object that waits no longer."""
    return (
        f"it waited {int(clock.used)} s, and spec.waitingDeadlineSeconds is {limit}: {what}; make"
        " it again when that is settled, or with more"
    )


def queued_too_long(clock: Stopwatch, limit: int | None, what: str) -> str:
    """The sentence for an object that queues no longer."""
    return (
        f"its runs queued {int(clock.used)} s in all, and spec.queueDeadlineSeconds is {limit}"
        f"{f': {what}' if what else ''}"
    )


def give_up_refused(
    told: tuple[Any, float | None],
    spec: Mapping[str, Any],
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> tuple[Any, float | None]:
    """What follows a start that was refused: it is waited for no longer than the spec allows.

    ``told`` is the status that says so, and seconds until the next try; ``reason`` and ``message``
    are those of the refusal. What may have started after all is waited for.
    """
    status, wait = told
    limit: int | None = spec.get("waitingDeadlineSeconds")
    clock = read(status.get("waitTime"), now)
    left = clock.left(limit)
    if left is None or clock.since is None:
        return told
    if left > 0:
        return status, left if wait is None else min(wait, left)
    if reason == Reason.SUBMISSION_UNKNOWN:
        return told
    why = waited_too_long(clock, limit, message)
    return _failed(status, Reason.WAITED_TOO_LONG, why, generation, now), None


def _failed(given: Any, reason: Reason, message: str, generation: int, now: datetime) -> Any:
    """The status, of either kind, of an object that has failed."""
    conditions, status = conditions_of(given, generation, now), halted(given, now)
    status["phase"] = Phase.FAILED
    status["completionTime"] = rfc3339(now)
    if "candidates" in status:
        conditions.set(ConditionType.PASSED, False, reason, message)
    else:
        why: FailureDict = {
            "reason": reason,
            "message": shorten(message),
            "retryable": True,
        }
        status["failure"] = why
        conditions.set(ConditionType.RUNNING, False, reason, "no run is active")
    conditions.set(ConditionType.FAILED, True, reason, message)
    conditions.stalled(reason, message)
    status["conditions"] = conditions.current
    return status

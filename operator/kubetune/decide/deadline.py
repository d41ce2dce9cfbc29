"""activeDeadlineSeconds: how long runs may run, as a clock that stands still while they wait.

The clock runs while at least one run is under way on its target: from the start of its container
(on CML, of its engine) to its end. It stops while a run is queued, suspended by a queue, without a
node or being set up, between attempts, while the object is suspended, and while results are
registered. What has been counted is in ``status.runTime``, so nothing is counted twice and a Job
that is gone loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from kubetune.api.conditions import AttemptResult, ConditionType, Reason
from kubetune.api.kinds.status_types import AttemptDict, ObjectStatusDict, RunTimeDict
from kubetune.decide.decision import (
    Action,
    LimitRuns,
    StopRuns,
    condition_in,
    parse_time,
    rfc3339,
)
from kubetune.targets.values import FINISHED, RunState

OVERDUE_SECONDS = 10.0
"""A run's target ends it by itself; if it hasn't after this, it is stopped."""
WAITING_LOOK_SECONDS = 6 * 3600.0
"""How often a limit that a waiting run has on its target is looked at: it may be put off again."""
TOLD_SECONDS = 5.0
"""The target's clock and ours differ by less, when it says that the time was over."""
TOLD = frozenset({Reason.DEADLINE_EXCEEDED, Reason.TIMED_OUT})


@dataclass(frozen=True)
class Span:
    """One run was under way from ``start`` to ``end``, or still is."""

    start: datetime
    end: datetime | None


@dataclass(frozen=True)
class Clock:
    """Time that runs have taken."""

    used: float = 0.0
    """Seconds until now."""
    ticking: bool = False
    """Whether a run is under way."""
    counted: RunTimeDict | None = None
    """status.runTime: the part that is over."""

    def left(self, seconds: int | None) -> float | None:
        """What is left of a deadline; None when there is none."""
        return None if seconds is None else seconds - self.used


def spans(
    runs: Sequence[RunState],
    known: Iterable[AttemptDict],
    now: datetime,
    *,
    not_before: datetime | None = None,
) -> list[Span]:
    """When the runs of one key were under way; ``known`` are the attempts as the status has them.

    A run that is gone, or that a queue has sent back, was under way until this was noticed. One
    that lives began at ``not_before`` or later by our clock, whatever the target's clock says.
    """
    found: list[Span] = []
    by_number = {run.attempt: run for run in runs}
    for run in runs:
        if run.started_at is None or run.phase == "pending":
            continue
        if run.phase in FINISHED:
            found.append(Span(run.started_at, run.ended_at or now))
        else:
            found.append(Span(max(run.started_at, not_before or run.started_at), None))
    for attempt in known:
        started = parse_time(attempt.get("startTime"))
        if attempt["result"] != AttemptResult.RUNNING or started is None:
            continue
        run = by_number.get(attempt["number"])
        if run is None:
            found.append(Span(started, now))
        elif run.phase == "pending":
            found.append(Span(started, run.waiting_since or now))
    return found


def read_clock(counted: RunTimeDict | None, found: Sequence[Span], now: datetime) -> Clock:
    """The clock; ``counted`` is status.runTime, ``found`` are the spans that the target shows."""
    seconds = counted["seconds"] if counted else 0
    until = parse_time(counted["countedUntil"]) if counted else None
    # Whole seconds, as in status: a rest would be counted at every look.
    cut = [
        Span(span.start.replace(microsecond=0), span.end and span.end.replace(microsecond=0))
        for span in found
    ]
    ends = [span.end for span in cut if span.end and (until is None or span.end > until)]
    if ends:
        last = max(ends)
        seconds += int(_covered(cut, until, last))
        until = last
        counted = {"seconds": seconds, "countedUntil": rfc3339(last)}
    live = [span for span in cut if span.end is None]
    going_on = _covered(live, until, now) if live else 0.0
    return Clock(seconds + going_on, bool(live), counted)


def seen_running(status: ObjectStatusDict, now: datetime) -> datetime:
    """Since when the status says that a run is under way: by our clock, unlike the target's."""
    running = condition_in(status, ConditionType.RUNNING)
    seen = running["lastTransitionTime"] if running and running["status"] == "True" else None
    return parse_time(seen) or now


def is_over(left: float | None, newest: AttemptDict | None) -> bool:
    """Whether no other attempt has time; the target may have said so of the newest one."""
    told = newest is not None and newest.get("reason") in TOLD
    return left is not None and left <= (TOLD_SECONDS if told else 0)


def enforce(
    run_key: str, live: Sequence[RunState], left: float | None, now: datetime, *, own_limit: bool
) -> list[Action]:
    """What keeps the live runs of a key within the deadline.

    ``own_limit`` tells that the target ends them by itself: then it alone knows whether a run that
    ends in the same moment has succeeded, and stopping it would only throw that away.
    """
    if not any(run.phase != "stopping" for run in live):
        return []
    if left is None:
        limited = any(run.limited for run in live)
        return [LimitRuns(run_key, None, now)] if limited else []
    waits = all(run.phase == "pending" for run in live)
    if left <= 0 and (waits or not own_limit or left <= -OVERDUE_SECONDS):
        return [StopRuns(run_key)]
    return [LimitRuns(run_key, left, now)] if own_limit else []


def look_again(left: float | None, clock: Clock, live: Sequence[RunState]) -> float | None:
    """Seconds until the deadline must be looked at; nothing else announces it."""
    if left is None:
        return None
    if not clock.ticking:
        return WAITING_LOOK_SECONDS if live else None
    return left if left > 0 else max(left + OVERDUE_SECONDS, 1.0)


def _covered(found: Sequence[Span], since: datetime | None, until: datetime) -> float:
    """Seconds of the stretch that at least one span covers."""
    total, reached = 0.0, since
    for span in sorted(found, key=lambda item: item.start):
        start = max(span.start, reached) if reached else span.start
        end = min(span.end or until, until)
        if end > start:
            total += (end - start).total_seconds()
            reached = end
    return total

"""Why something waits, and how long to wait for what nothing announces."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubetune.api.conditions import Phase, Reason
from kubetune.decide.decision import parse_time

RETRY_FIRST_SECONDS = 10
RETRY_MAX_SECONDS = 360
MAX_PREEMPTED = 50
"""Evictions that are nobody's fault; more tell that the place is none for this run."""
SECRET_FIRST_SECONDS = 2.0
SECRET_MAX_SECONDS = 25.0
TARGET_RETRY_SECONDS = 60.0
"""The backend tells when a target answers again; this is for the case that it can't."""


def secret_wait(waiting_since: datetime | None, now: datetime) -> float:
    """Seconds until a missing Secret is read again: 2 at first, then growing to 25.

    Secrets are read, not watched, so that the operator needs no right to list them.
    """
    if waiting_since is None:
        return SECRET_FIRST_SECONDS
    age = (now - waiting_since).total_seconds()
    return min(max(SECRET_FIRST_SECONDS, age / 4), SECRET_MAX_SECONDS)


def retry_wait(newest: dict[str, Any], counts: dict[str, Any], now: datetime) -> float:
    """Seconds until the next attempt: 10, 20 ... 360 after failures, and after all evictions but
    the first.

    ``newest`` is the attempt that ended, ``counts`` are all of its kind, as in status.
    """
    failed = max(int(counts["failed"]), 1)
    if newest["result"] == "Preempted":
        failed = int(counts["preempted"]) - 1
        if failed < 1:
            return 0
    pause = min(RETRY_FIRST_SECONDS * 2 ** (failed - 1), RETRY_MAX_SECONDS)
    ended = parse_time(newest.get("endTime")) or now
    return pause - (now - ended).total_seconds()


def evicted_too_often(newest: dict[str, Any], counts: dict[str, Any]) -> str:
    """A sentence when no other attempt follows the eviction of the newest one, else empty."""
    preempted = int(counts["preempted"])
    if newest["result"] != "Preempted" or preempted <= MAX_PREEMPTED:
        return ""
    return (
        f"evicted or preempted {preempted} times, and at most {MAX_PREEMPTED} are made good: choose"
        " another place, or a higher priority"
    )


@dataclass(frozen=True)
class NotReady:
    """Why a job or an evaluation can't be submitted."""

    phase: Phase
    reason: Reason
    message: str
    refused: bool = False
    """Only a change by the user helps."""
    look_again_seconds: float | None = None
    """Where nothing tells of the change."""

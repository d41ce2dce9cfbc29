"""A Job's own activeDeadlineSeconds, by which Kubernetes ends a run while no operator runs.

Kubernetes counts from the moment that the Job may make pods, so it would count the wait for a node
too. While a run waits its limit is therefore put off by a day, and once its container runs it is
set to the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from kubetune import names
from kubetune.api import JsonObject

WAITING_SECONDS = 86400.0
MAX_DIGITS = 10
MAX_SECONDS = 2**31 - 1
"""The field is an int32; a limit beyond is none."""


@dataclass(frozen=True)
class Limit:
    """activeDeadlineSeconds of a Job; None: none."""

    seconds: int | None

    @property
    def patch(self) -> JsonObject:
        """The merge patch that sets it."""
        note = str(self.seconds) if self.seconds is not None else None
        return {
            "metadata": {"annotations": {names.LIMIT: note}},
            "spec": {"activeDeadlineSeconds": self.seconds},
        }


def limit_of(job: JsonObject) -> int | None:
    """The limit that we have set."""
    text = (job["metadata"].get("annotations") or {}).get(names.LIMIT) or ""
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def new_limit(job: JsonObject, left: float | None, now: datetime, *, started: bool) -> Limit | None:
    """The limit that a live Job must get; None when it has it.

    ``left`` is how long its run may still run, ``started`` whether its container does.
    """
    current = limit_of(job)
    if left is None:
        return Limit(None) if current is not None else None
    began = (job.get("status") or {}).get("startTime")
    # While a queue holds the Job there is no such time: it begins again when it is let go.
    elapsed = (now - datetime.fromisoformat(began)).total_seconds() if began else 0.0
    exact = max(elapsed, 0.0) + max(left, 0.0)
    if started:
        wanted = _whole(exact)
        # Times of the API have whole seconds.
        return None if current is not None and abs(current - wanted) <= 1 else Limit(wanted)
    if current is not None and current >= exact + WAITING_SECONDS / 2:
        return None
    if current is not None and not began:
        return None
    return Limit(_whole(exact + WAITING_SECONDS))


def _whole(seconds: float) -> int:
    return min(max(math.ceil(seconds), 1), MAX_SECONDS)

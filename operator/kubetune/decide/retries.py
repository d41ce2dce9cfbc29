"""When something is tried or looked at again: every pause of the rules, in seconds.

Whatever a watch tells comes at once; these are for what nothing announces.
"""

from __future__ import annotations

from datetime import datetime

from kubetune.api.conditions import AttemptResult, Reason
from kubetune.api.kinds.status_types import AttemptCountsDict, AttemptDict
from kubetune.decide.decision import parse_time

BACKOFF_LIMIT = 3
"""Attempts that may fail before a FineTuneJob does, where nobody says otherwise."""
MAX_PREEMPTED = 50
"""Evictions that are nobody's fault; more tell that the place is none for this run."""

TRACKER_SECONDS = 10.0
"""A tracker that was asked, or that didn't answer."""
PROBE_SECONDS = 10.0
"""A target that isn't Ready."""
ELSEWHERE_SECONDS = 15.0
"""Another Evaluation that is measuring the same."""
CONFIG_MAP_SECONDS = 15.0
"""A key that a ConfigMap doesn't have: which keys it has isn't watched."""
RIVAL_SECONDS = 30.0
"""Another object that has the name of the output."""
REFUSED_STOP_SECONDS = 30.0
"""A stop or a deletion that a target refused."""
TARGET_SECONDS = 60.0
"""A target that is away; its backend tells when it answers again, if it can."""
INSPECTION_FIRST_SECONDS = 5
NOT_WATCHED = (
    Reason.SECRET_MISSING,
    Reason.CLAIM_MISSING,
    Reason.SERVICE_ACCOUNT_MISSING,
    Reason.CONSENT_MISSING,
)
"""What is read by name when it is needed: see ``until_secret``."""


def next_look(reason: Reason) -> float:
    """Seconds until a target that isn't Ready is asked again, by what it lacks."""
    refused = reason in (Reason.ANSWER_REFUSED, Reason.EGRESS_REFUSED)
    return TARGET_SECONDS if refused else PROBE_SECONDS


def after_attempt(
    newest: AttemptDict, counts: AttemptCountsDict, first: float, now: datetime
) -> float:
    """Seconds until the next attempt: ``first``, twice as many ... 360 after failures, and after
    all evictions but the first.

    ``newest`` is the attempt that ended, ``counts`` are all of its kind, as in status.
    """
    failed = max(counts["failed"], 1)
    if newest["result"] == AttemptResult.PREEMPTED:
        failed = counts["preempted"] - 1
        if failed < 1:
            return 0
    ended = parse_time(newest.get("endTime")) or now
    return _doubled(first, failed, 360) - (now - ended).total_seconds()


def after_inspection(attempts: int) -> float:
    """Seconds between the end of the n-th failed try of an inspection and the next: 5 ... 300."""
    return _doubled(INSPECTION_FIRST_SECONDS, max(attempts, 1), 300)


def after_refusal(since: datetime | None, now: datetime) -> float:
    """Seconds until what the cluster refuses is tried again: 10 at first, then growing to 120."""
    return _with_age(10.0, since, now, 120.0)


def until_secret(since: datetime | None, now: datetime) -> float:
    """Seconds until a Secret or its like is read again: 2 at first, then growing to 25.

    They are read, not watched, so that the operator needs no right to list them.
    """
    return _with_age(2.0, since, now, 25.0)


def _doubled(first: float, number: int, longest: float) -> float:
    return min(first * 2 ** (number - 1), longest)


def _with_age(first: float, since: datetime | None, now: datetime, longest: float) -> float:
    """A quarter of how long it has lasted, within limits."""
    age = (now - since).total_seconds() if since else 0.0
    return min(max(first, age / 4), longest)

"""How long to wait for what nothing announces."""

from __future__ import annotations

from datetime import datetime

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

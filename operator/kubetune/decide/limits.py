"""The time to live of what is over."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from kubetune.decide.decision import Action, Decision, DeleteSelf, Running, parse_time
from kubetune.decide.resources import Resource


def after_end(
    resource: Resource[Any, Running],
    ttl_seconds: int | None,
    stop: tuple[Action, ...],
    now: datetime,
) -> Decision[Running]:
    """Over: only the time to live applies. ``stop`` ends what the end has left running."""
    ended = parse_time(resource.status.get("completionTime"))
    status: Running | None = None
    if resource.status.get("observedGeneration") != resource.generation:
        status = resource.status.copy()
        status["observedGeneration"] = resource.generation
    if ttl_seconds is None or ended is None:
        return Decision(stop, status)
    left = (ended + timedelta(seconds=ttl_seconds) - now).total_seconds()
    return Decision((DeleteSelf(),)) if left <= 0 else Decision(stop, status, left)

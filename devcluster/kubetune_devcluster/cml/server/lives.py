"""Runs that only follow a script on the clock, for scale and for bad days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kubetune_devcluster.cml.server.records import Job, Run
from kubetune_devcluster.cml.server.scripts import Script
from kubetune_devcluster.cml.server.statuses import (
    RUNNING,
    SCHEDULING,
    STARTING,
    STOPPED,
    STOPPING,
    TIMEDOUT,
)


class ScriptFor(Protocol):
    """Gives the script of a new run."""

    def __call__(self, job: Job, run: Run, /) -> Script: ...


@dataclass(frozen=True)
class Moment:
    """Where a run is; ``ended`` says when it ended."""

    status: str
    ended: float | None = None


def follow(run: Run, script: Script, now: float, stop_seconds: float, mark: bool) -> Moment:
    """Bring a run's times up to ``now`` and tell its status."""
    if run.stop_asked is not None:
        stopped = run.stop_asked + stop_seconds
        return Moment(STOPPED, stopped) if now >= stopped else Moment(STOPPING)
    place = _place(run, script, now)
    limit = int(run.settings.get("timeout") or 0)
    if not limit or run.running is None:
        return place
    due = run.running + limit
    if now < due or (place.ended is not None and place.ended <= due):
        return place
    if run.settings.get("kill_on_timeout"):
        return Moment(TIMEDOUT, due)
    return Moment(TIMEDOUT) if mark and place.ended is None else place


def _place(run: Run, script: Script, now: float) -> Moment:
    moment = run.created
    status = SCHEDULING
    for status, seconds in script.steps:
        _note(run, status, moment)
        if run.held or now < moment + seconds:
            return Moment(run.status if run.held else status)
        moment += seconds
    return Moment(script.ends, moment) if script.ends else Moment(status)


def _note(run: Run, status: str, moment: float) -> None:
    if status == SCHEDULING and run.scheduling is None:
        run.scheduling = moment
    elif status == STARTING and run.starting is None:
        run.starting = moment
    elif status == RUNNING and run.running is None:
        run.running = moment

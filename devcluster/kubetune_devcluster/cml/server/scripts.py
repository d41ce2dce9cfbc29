"""Runs that only follow a script on the clock, for scale and for bad days."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kubetune_devcluster.cml.server.records import (
    RUNNING,
    SCHEDULING,
    STARTING,
    STOPPED,
    STOPPING,
    SUCCEEDED,
    TIMEDOUT,
    Job,
    Run,
)

FOREVER = float("inf")


@dataclass(frozen=True)
class Script:
    """The life of a run.

    ``steps``: statuses with the seconds they last; the last one lasts for ever when ``ends`` is
    empty. ``outcome``: what the run writes into its outcome file when it ends by itself (text,
    or an object that becomes JSON). ``usage``: fields of its row in the usage list.

    With ``tags``, ``metrics`` or ``artifacts`` there is an experiment run: tags are set when it
    starts, ``metrics`` are (seconds after the start, key, value, step), and ``final_tags`` and
    ``artifacts`` (path -> content) come when the run succeeds.
    """

    steps: Sequence[tuple[str, float]] = ((SCHEDULING, 1.0), (STARTING, 1.0), (RUNNING, 5.0))
    ends: str = SUCCEEDED
    outcome: str | Mapping[str, Any] | None = None
    usage: Mapping[str, Any] = field(default_factory=dict[str, Any])
    experiment: str = "kubetune"
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    final_tags: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Sequence[tuple[float, str, float, int]] = ()
    artifacts: Mapping[str, str | bytes] = field(default_factory=dict[str, str | bytes])

    @property
    def tracked(self) -> bool:
        """Whether it has an experiment run."""
        return bool(self.tags or self.final_tags or self.metrics or self.artifacts)

    def outcome_text(self) -> str | None:
        """What the outcome file holds."""
        if self.outcome is None or isinstance(self.outcome, str):
            return self.outcome
        return json.dumps(self.outcome)


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

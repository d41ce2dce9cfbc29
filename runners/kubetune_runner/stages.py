"""Where a run stands: its stages one after the other, how much of each is done, and until when.

Whoever does the work calls the ``Report`` that it was given, as often as it likes: a call costs
next to nothing. What people see follows from it at a pace of its own: a line in the log at least
every 15 seconds, and the run's tag (``mlflow.tracking``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kubetune.api.run import stages as names
from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.plan import RunPlan
from kubetune.api.run.stages import FACTS, MEASURING_SHARE, MOST, STAGES, Stage, Unit

LINE_SECONDS = 10.0
"""Between two lines of the log; with what a busy interpreter adds, fewer than 15."""

log = logging.getLogger(__name__)

Report = Callable[[int, int | None], None]
"""Told how much of a stage is done and how much it is in all, None while nobody knows. Any thread
of the run's own process may call it."""
Begin = Callable[[Stage], None]


def unseen(done: int, total: int | None = None) -> None:
    """A Report that nobody looks at."""


class Watch(Protocol):
    """Who is told that a stage begins, and how much of it is done."""

    def begin(
        self, stage: Stage, unit: Unit | None = None, total: int | None = None, done: int = 0
    ) -> Report:
        """See ``Stages.begin``."""
        ...


class _Unwatched:
    def begin(
        self, stage: Stage, unit: Unit | None = None, total: int | None = None, done: int = 0
    ) -> Report:
        """Nobody looks."""
        return unseen


UNWATCHED: Watch = _Unwatched()


def expected(plan: RunPlan | EvaluationRunPlan) -> dict[Stage, int]:
    """The stages that a run will have, and the share of each."""
    if isinstance(plan, EvaluationRunPlan):
        left_out = {
            *("baseline", "training", "merging"),
            *(() if plan.tasks else ("tasks",)),
            *(() if plan.judges else ("judging",)),
        }
    else:
        merges = plan.merge or plan.training.continue_from == "merged"
        left_out = {
            *("tasks", "judging"),
            *(() if plan.training.evaluation.baseline else ("baseline",)),
            *(() if merges else ("merging",)),
        }
    shares: dict[Stage, int] = {
        stage: FACTS[stage].share for stage in STAGES if stage not in left_out
    }
    if isinstance(plan, EvaluationRunPlan):
        shares["evaluating"] = MEASURING_SHARE
    return shares


@dataclass(frozen=True)
class _Standing:
    """Where the run stands; replaced as a whole, since several threads read it."""

    stage: Stage
    unit: Unit | None
    began: float
    first: int = 0
    """What was done before, as by an earlier attempt: it says nothing about the pace."""
    done: int = 0
    total: int | None = None

    @property
    def share_done(self) -> float:
        """Of the stage, 0 to 1."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total else 0.0

    def eta(self, now: float) -> float | None:
        """Seconds until the stage ends, at the pace that it had so far."""
        made = self.done - self.first
        if self.total is None or made <= 0 or self.done > self.total:
            return None
        return (now - self.began) / made * (self.total - self.done)


class Stages:
    """The stages that a run will have; of each what is done.

    Nothing is shown before ``show``: a worker that doesn't lead counts for nobody.
    """

    def __init__(
        self,
        expected: Mapping[Stage, int] | Sequence[Stage],
        began: Begin = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        shares: dict[Stage, int] = (
            dict(expected)
            if isinstance(expected, Mapping)
            else {stage: FACTS[stage].share for stage in expected}
        )
        whole = sum(shares.values())
        before = 0
        self._parts: dict[Stage, tuple[float, float]] = {}
        """Where a stage begins and how long it is, in percent of the run."""
        for stage, share in shares.items():
            self._parts[stage] = (100 * before / whole, 100 * share / whole)
            before += share
        self._began, self._clock = began, clock
        self._now: _Standing | None = None
        self._percent = 0
        self._line_at = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def show(self) -> None:
        """Begin to write lines."""
        self._thread = threading.Thread(target=self._write_lines, name="stages", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more lines."""
        self._over.set()

    def begin(
        self, stage: Stage, unit: Unit | None = None, total: int | None = None, done: int = 0
    ) -> Report:
        """The stage begins, which ends the one before; ``done`` of it was so before.

        What the returned Report is told later, once another stage has begun, changes nothing.
        """
        standing = _Standing(stage, unit, self._clock(), done, done, total)
        self._now = standing
        self._line_at = self._clock()
        self._began(stage)

        def report(done: int, total: int | None = None) -> None:
            now = self._now
            if now is not None and now.began == standing.began and now.stage == stage:
                self._now = _Standing(
                    stage, unit, now.began, now.first, done, now.total if total is None else total
                )

        return report

    @property
    def percent(self) -> int:
        """Of the whole run; never less than before, and 99 until the run has ended well."""
        now = self._now
        if now is not None and now.stage in self._parts:
            before, share = self._parts[now.stage]
            self._percent = max(self._percent, min(MOST, int(before + share * now.share_done)))
        return self._percent

    def facts(self) -> dict[str, str | int | float]:
        """What the run's tag says; nothing before the first stage."""
        now = self._now
        if now is None:
            return {}
        told: dict[str, str | int | float] = {
            names.TOLD_STAGE: now.stage,
            names.TOLD_PERCENT: self.percent,
        }
        if now.unit is not None and (now.done or now.total):
            told |= {names.TOLD_DONE: now.done, names.TOLD_UNIT: now.unit}
            if now.total is not None:
                told[names.TOLD_TOTAL] = now.total
            if (eta := now.eta(self._clock())) is not None:
                told[names.TOLD_ETA] = round(eta, 1)
        return told

    def line(self) -> str:
        """The same for people."""
        now = self._now
        if now is None:
            return "preparing"
        said = FACTS[now.stage].words
        eta = now.eta(self._clock())
        if now.unit is not None and (now.done or now.total):
            said += f": {_amount(now.done, now.unit)}"
            said += f" of {_amount(now.total, now.unit)}" if now.total is not None else ""
            said += f" {now.unit}" if now.unit != "bytes" else ""
        elif (since := self._clock() - now.began) >= 1:
            said += f" for {_duration(since)}"
        if eta is not None:
            said += f", about {_duration(eta)} left"
        return f"{said} ({self.percent}% of the run)"

    def write_line(self) -> None:
        """Write a line, if the last one is old enough."""
        if self._now is not None and self._clock() - self._line_at >= LINE_SECONDS:
            self._line_at = self._clock()
            log.info("%s", self.line())

    def _write_lines(self) -> None:
        while not self._over.wait(max(0.5, self._line_at + LINE_SECONDS - self._clock())):
            self.write_line()


def _amount(count: int, unit: Unit) -> str:
    return f"{count / 2**20:,.1f} MiB" if unit == "bytes" else f"{count:,}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    return f"{whole // 3600}h{whole % 3600 // 60}m"

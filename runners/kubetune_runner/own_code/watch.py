"""How far the user's code is: by what it posts, and by what it logs to the MLflow run."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from kubetune.api.run.plan import METRIC_ETA, METRIC_STEP, METRIC_TOKENS_PER_SECOND, TAG_TOTAL_STEPS
from kubetune.api.run.training_plan import HyperparametersPlan

from kubetune_runner.errors import no_progress
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.own_code.protocol import Posted

STEP, TOTAL, EPOCH = "current_step", "total_steps", "current_epoch"
"""Names of the protocol among its metrics."""
READ_SECONDS = 5.0
PERCENT = 100
_OWN = (METRIC_STEP, METRIC_ETA, METRIC_TOKENS_PER_SECOND)
_NOT_IN_NAMES = re.compile(r"[^0-9A-Za-z_\-. :/]")

log = logging.getLogger(__name__)


class Watch:
    """Turns both into the metrics and tags from which the operator reads progress."""

    def __init__(
        self, tracker: Tracker, numbers: HyperparametersPlan, deadline: float | None = None
    ) -> None:
        self.step = 0
        self._deadline = deadline
        self._moved_at = time.monotonic()
        self._tracker = tracker
        self._report = tracker.stages.begin("training", "steps", numbers.max_steps)
        self._total = numbers.max_steps
        self._known_total = False
        """Whether the code itself has told how many steps there are."""
        self._lock = threading.Lock()
        self._posts: list[Posted] = []
        self._remaining: tuple[float, float] | None = None
        """Seconds that the code expects, and when it said so."""
        self._forwarded: set[str] = set()
        self._reports_itself = False
        self._since_ms = time.time() * 1000
        """Older metrics are of earlier attempts."""
        self._first: tuple[int, float] | None = None
        self._read_at = 0.0

    def receive(self, posted: Posted) -> None:
        """Take a message of the protocol."""
        with self._lock:
            self._posts.append(posted)

    def check(self) -> None:
        """Raise RunError NoProgress when the code has reported no new step for too long."""
        if self._deadline and time.monotonic() - self._moved_at > self._deadline:
            raise no_progress(self._deadline, "the code reported no step")

    def gauges(self) -> tuple[int, Mapping[str, float]]:
        """The step and what belongs to it; for ``Tracker.watch``, whose thread it runs in."""
        now = time.monotonic()
        with self._lock:
            posts, self._posts = self._posts, []
        if now - self._read_at >= READ_SECONDS or posts:
            self._read_at = now
            self._read_run()
        for posted in posts:
            self._take(posted, now)
        values: dict[str, float] = {METRIC_STEP: self.step}
        remaining = self._eta(now)
        if remaining is not None:
            values[METRIC_ETA] = remaining
        return self.step, values

    def _take(self, posted: Posted, now: float) -> None:
        metrics = dict(posted.metrics)
        step, total, epoch = (metrics.pop(name, None) for name in (STEP, TOTAL, EPOCH))
        if step is None and total is None and posted.percent is not None and not metrics:
            # Nothing but a share: each hundredth is a step.
            step, total = posted.percent, PERCENT
        if total and total > 0:
            self._set_total(int(total), known=True)
        if step is None and posted.percent is not None and self._known_total and self._total:
            # The message at the end of a training has the share alone.
            step = posted.percent * self._total / PERCENT
        if step is not None:
            self._reached(int(step), now)
        if posted.remaining_seconds is not None:
            self._remaining = (posted.remaining_seconds, now)
        if epoch is not None:
            metrics["epoch"] = epoch
        named = {_NOT_IN_NAMES.sub("_", name)[:250]: value for name, value in metrics.items()}
        named = {name: value for name, value in named.items() if name and name not in _OWN}
        if named and not self._reports_itself:
            self._forwarded |= named.keys()
            self._tracker.metrics(named, self.step, once=True)

    def _read_run(self) -> None:
        """See what the code has logged itself."""
        try:
            data: Any = self._tracker.client.get_run(self._tracker.run_id).data
            metrics = data.to_proto().metrics
        except Exception as error:
            # It is a convenience; a workspace's plugin may have other classes.
            log.debug("the run can't be read: %s", error)
            return
        own = (*_OWN, *self._forwarded)
        theirs = [
            metric
            for metric in metrics
            if metric.timestamp >= self._since_ms
            and metric.key not in own
            and not metric.key.startswith(("system/", "train_rows_"))
        ]
        self._reports_itself = bool(theirs)
        if not theirs:
            return
        self._reached(max(metric.step for metric in theirs), time.monotonic())
        self._tracker.show({metric.key: metric.value for metric in theirs})
        total = data.params.get("max_steps", "")
        if total.isdigit() and int(total) > 0 and not self._known_total:
            self._set_total(int(total), known=False)

    def _set_total(self, total: int, *, known: bool) -> None:
        self._known_total = self._known_total or known
        if total != self._total or known:
            self._total = total
            self._tracker.tags({TAG_TOTAL_STEPS: str(total)})
            self._report(self.step, total)

    def _reached(self, step: int, now: float) -> None:
        if step > self.step:
            self.step = step
            self._moved_at = now
            self._report(step, self._total)
            if self._first is None:
                self._first = (step, now)

    def _eta(self, now: float) -> float | None:
        if self._remaining is not None:
            seconds, said = self._remaining
            return max(0.0, seconds - (now - said))
        if self._total is None or self._first is None or self.step <= self._first[0]:
            return None
        first, began = self._first
        return (now - began) / (self.step - first) * max(0, self._total - self.step)

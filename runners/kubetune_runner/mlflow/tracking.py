"""The run's line to MLflow: a thread that buffers and sends, so training never waits for it.

Each FineTuneJob, and each candidate of an Evaluation, has one MLflow run, found by its run-key
tag; every attempt continues in it.
While the server is away everything is kept and sent later, in order.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from kubetune.api.run import evaluation_plan
from kubetune.api.run import plan as names
from kubetune.api.run.evaluation_plan import EvaluationRunPlan
from kubetune.api.run.plan import RunPlan
from kubetune.api.run.vouched import vouched, with_codes

from kubetune_runner.errors import RunError
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow.client import first_line
from kubetune_runner.mlflow.last_word import LastWord
from kubetune_runner.stages import Stages, expected

FLUSH_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 15.0
MAX_BUFFERED_METRICS = 1_000_000
BATCH_METRICS = 900
"""MLflow takes 1,000 metrics, tags and parameters in one call, of which 100 tags."""
BATCH_OTHERS = 50
_LAST_WORD = {"loss": "loss", "epoch": "epoch", "learning_rate": "learningRate"}
"""Metrics that the outcome tells of the last step, with their names there."""

log = logging.getLogger(__name__)

Gauges = Callable[[], tuple[int, Mapping[str, float]] | None]


class Tracker:
    """Buffers what a run reports and sends it in the background."""

    def __init__(self, plan: RunPlan | EvaluationRunPlan) -> None:
        # Imported here, in the main thread: two threads importing at once can deadlock.
        self.client: Any = mlflow_client.connect(plan.tracking.uri)
        self.attempt = int(os.environ.get(names.ENV_ATTEMPT, "1"))
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self.known_tags: dict[str, str] = {}
        """Of earlier attempts, as far as they vouch for them: others can write tags, too."""
        self.stages = Stages(expected(plan), self.phase)
        """Where the run stands."""
        self._told: dict[str, Any] | None = None
        """What the tag of the run said last."""
        self._plan = plan
        self._reported: dict[str, int] = {}
        """Last step of a metric that earlier attempts reported."""
        self._metrics: deque[tuple[Any, bool]] = deque(maxlen=MAX_BUFFERED_METRICS)
        self._params: dict[str, str] = {}
        self._calls: deque[Callable[[Any, str], None]] = deque()
        self._gauges: Gauges = lambda: None
        self._shown: dict[str, float] = {}
        """Newest values of this attempt that the operator shows with the step."""
        self._said_last = False
        """Whether the gauges were asked once more at the end."""
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._deadline: float | None = None
        self._failures = 0
        self._problem: str | None = None
        """The last failure, which is logged once."""
        self._last_word = LastWord()
        self._refusal: RunError | None = None
        """Why there is no run and won't be one, however often the server is asked."""
        self._tags: dict[str, str] = {
            **_own_tags(plan),
            names.TAG_RUN_KEY: plan.run.run_key,
            names.TAG_INSTALL: plan.run.install_id,
            names.TAG_NAMESPACE: plan.run.namespace,
            names.TAG_ATTEMPT: str(self.attempt),
        }
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin to send, and to write into the log how far the run is."""
        self._thread.start()
        self.stages.show()

    def phase(self, phase: str) -> None:
        """Report what the run is doing."""
        log.info("phase %s", phase)
        self.tags({names.TAG_PHASE: phase})

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        told = with_codes(self._plan.run.report_key, tags)
        with self._lock:
            self._tags.update(told)
        self._wake.set()

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; the same in every attempt."""
        with self._lock:
            self._params.update({key: str(value) for key, value in params.items()})

    def metrics(self, metrics: Mapping[str, float], step: int, *, once: bool = False) -> None:
        """Log metrics at an optimizer step; with ``once`` not if an earlier attempt did."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with self._lock:
            self._metrics.extend(
                (Metric(key, value, now, step), once) for key, value in metrics.items()
            )
        self.show(metrics)

    def show(self, metrics: Mapping[str, float]) -> None:
        """Have the operator show what is known of the present step."""
        with self._lock:
            self._shown |= {key: metrics[key] for key in names.SHOWN_METRICS if key in metrics}

    def checkpoint(self, step: int, at: float) -> None:
        """Have the operator show the newest checkpoint: its step, 0 for none, and its time."""
        with self._lock:
            self._shown |= {names.TOLD_CHECKPOINT: step, names.TOLD_CHECKPOINT_TIME: at}

    def last_values(self) -> dict[str, float]:
        """What was reported of the last step, for the run's final report."""
        with self._lock:
            return {
                _LAST_WORD[key]: value
                for key, value in self._shown.items()
                if key in _LAST_WORD and math.isfinite(value)
            }

    def call(self, function: Callable[[Any, str], None]) -> None:
        """Have ``function(client, run_id)`` called in the background, again until it works."""
        with self._lock:
            self._calls.append(function)

    def watch(self, gauges: Gauges) -> None:
        """Ask ``gauges`` for step and metrics before every flush."""
        self._gauges = gauges

    def check(self) -> None:
        """Raise RunError when the server is known to take no run: before hours are spent on one."""
        if self._refusal is not None:
            raise self._refusal

    def wait_run(self, seconds: float) -> str | None:
        """The run's id; None when the server can't be reached within the time."""
        end = time.monotonic() + seconds
        while self.run_id is None and time.monotonic() < end:
            self._wake.set()
            time.sleep(0.1)
        return self.run_id

    def close(self, status: str, seconds: float) -> bool:
        """Send what is left and end the run as FINISHED, FAILED or KILLED.

        Returns whether all of it arrived within the time.
        """
        self.stages.close()
        self._last_word.status = status
        self.call(lambda client, run_id: client.set_terminated(run_id, status))
        self._deadline = time.monotonic() + seconds
        self._wake.set()
        self._thread.join(seconds + 1.0)
        return not self._pending()

    def _pending(self) -> bool:
        with self._lock:
            left = self._metrics or self._params or self._tags or self._calls
            return bool(left) or not self._said_last or self._last_word.doubted

    def _work(self) -> None:
        while True:
            try:
                self._flush()
                self._failures, self._problem, self._refusal = 0, None, None
            except Exception as error:
                self._failures += 1
                self._last_word.doubt()
                self._refusal = error if isinstance(error, RunError) else None
                if first_line(error) != self._problem:
                    log.warning("MLflow accepts no reports, they are kept: %s", first_line(error))
                self._problem = first_line(error)
            if self._deadline is not None and (
                not self._pending() or time.monotonic() >= self._deadline
            ):
                return
            closing = self._deadline is not None
            pause = 0.5 if closing else FLUSH_SECONDS * min(self._failures + 1, 5)
            self._wake.wait(min(pause, LONGEST_PAUSE_SECONDS))
            self._wake.clear()

    def _flush(self) -> None:
        if self.run_id is None:
            self.run_id = self._open_run()
        self._ask_gauges()
        while self._send(self.run_id):
            pass
        while self._calls:
            self._guarded(lambda: self._calls[0](self.client, self.run_id or ""))
            self._calls.popleft()
        if self._last_word.to_be_read(closing=self._deadline is not None):
            self._repeat_overtaken(self.run_id)

    def _repeat_overtaken(self, run_id: str) -> None:
        """Say again what an older report, which the server has handled late, has replaced."""
        overtaken = self._last_word.overtaken(self.client, run_id)
        with self._lock:
            self._tags = overtaken.tags | self._tags
        if overtaken.status is not None:
            status = overtaken.status
            self.call(lambda client, run_id: client.set_terminated(run_id, status))

    def _ask_gauges(self) -> None:
        """Report what the gauges say; at the end once, as the last step is made by then."""
        closing = self._deadline is not None
        if self._said_last:
            return
        gauges = self._gauges()
        self._said_last = closing
        if gauges is not None:
            self.report(*gauges)
        elif stage := self.stages.facts():
            self._tell(stage)

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Report where the run is, in numbers that belong together."""
        self.metrics(values, step)
        self._tell({**values, **self.stages.facts()}, again=True)

    def _tell(self, values: Mapping[str, Any], *, again: bool = False) -> None:
        """Tell these in the run's tag, beside what was shown; the same once more only ``again``."""
        with self._lock:
            told = {"attempt": self.attempt, **self._shown, **values}
            if told == self._told and not again:
                return
            self._told = told
            self._tags[names.TAG_PROGRESS] = json.dumps(told)
            # Which a late report of an earlier attempt may have replaced.
            self._tags[names.TAG_ATTEMPT] = str(self.attempt)

    def _send(self, run_id: str) -> bool:
        """Send one batch; False when there was nothing to send."""
        from mlflow.entities import Param, RunTag

        with self._lock:
            metrics = [self._metrics[i] for i in range(min(BATCH_METRICS, len(self._metrics)))]
            params = dict(list(self._params.items())[:BATCH_OTHERS])
            tags = dict(list(self._tags.items())[:BATCH_OTHERS])
        if not metrics and not params and not tags:
            return False
        self._last_word.sends(tags)
        self._send_parts(
            run_id,
            [metric for metric, once in metrics if not (once and self._is_reported(metric))],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in tags.items()],
        )
        with self._lock:
            for _ in metrics:
                self._metrics.popleft()
            for key in params:
                self._params.pop(key, None)
            for key, value in tags.items():
                # A newer value may have come while this one was under way.
                if self._tags.get(key) == value:
                    del self._tags[key]
        return True

    def _send_parts(
        self, run_id: str, metrics: list[Any], params: list[Any], tags: list[Any]
    ) -> None:
        """Send a batch; where the server refuses it, all that it doesn't refuse by itself."""
        single = len(metrics) + len(params) + len(tags) <= 1
        try:
            self.client.log_batch(run_id, metrics, params, tags)
        except Exception as error:
            if single or not _is_refusal(error):
                self._drop_or_raise(error)
                return
            for metric in metrics:
                self._send_parts(run_id, [metric], [], [])
            for param in params:
                self._send_parts(run_id, [], [param], [])
            for tag in tags:
                self._send_parts(run_id, [], [], [tag])

    def _is_reported(self, metric: Any) -> bool:
        last = self._reported.get(metric.key, self._reported.get("loss", -1))
        return metric.step <= last

    def _guarded(self, send: Callable[[], object]) -> None:
        """Send; what the server refuses or lacks is dropped: it would block all that follows."""
        try:
            send()
        except Exception as error:
            self._drop_or_raise(error)

    def _drop_or_raise(self, error: Exception) -> None:
        if not _is_refusal(error) and not mlflow_client.is_unsupported(error):
            raise error
        log.warning("MLflow refused a report, it is dropped: %s", first_line(error))

    def _open_run(self) -> str:
        """Find the run by its run key or create it; returns its id."""
        key = self._plan.run.run_key
        experiment = mlflow_client.experiment_id(self.client, self._plan.tracking.experiment)
        run = mlflow_client.find_run(self.client, experiment, key)
        if run is not None:
            self._guarded(lambda: self._recall(run.info.run_id))
            self.known_tags = vouched((self._plan.run.report_key,), run.data.tags)
            self._guarded(lambda: self.client.update_run(run.info.run_id, status="RUNNING"))
        else:
            run = self.client.create_run(
                experiment,
                tags={names.TAG_RUN_KEY: key},
                run_name=_run_name(self._plan),
            )
        self.experiment_id = experiment
        log.info("MLflow run %s in experiment %s", run.info.run_id, self._plan.tracking.experiment)
        return run.info.run_id

    def _recall(self, run_id: str) -> None:
        """Find out what earlier attempts reported."""
        for key in ("loss", "eval_loss"):
            history = self.client.get_metric_history(run_id, key)
            if history:
                self._reported[key] = max(metric.step for metric in history)


class NullTracker(Tracker):
    """Of a worker that doesn't lead: takes every report and sends none."""

    def start(self) -> None:
        """Nothing is sent."""

    def phase(self, phase: str) -> None:
        """Tell the log alone."""
        log.info("phase %s", phase)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Of the run that the leader reports."""

    def metrics(self, metrics: Mapping[str, float], step: int, *, once: bool = False) -> None:
        """Of the run that the leader reports."""

    def show(self, metrics: Mapping[str, float]) -> None:
        """Of the run that the leader reports."""

    def checkpoint(self, step: int, at: float) -> None:
        """Of the run that the leader reports."""


def _is_refusal(error: Exception) -> bool:
    """Whether the server understands what it was sent, and doesn't take it."""
    return getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"


def _own_tags(plan: RunPlan | EvaluationRunPlan) -> dict[str, str]:
    """What a run of this kind has besides the tags of all runs."""
    if isinstance(plan, RunPlan):
        return {
            **plan.tags,
            names.TAG_JOB: plan.run.name,
            names.TAG_LINEAGE: plan.lineage_digest,
        }
    return {
        evaluation_plan.TAG_EVALUATION: plan.run.name,
        evaluation_plan.TAG_CANDIDATE: plan.candidate,
        evaluation_plan.TAG_EVALUATION_DIGEST: plan.digest,
    }


def _run_name(plan: RunPlan | EvaluationRunPlan) -> str:
    owner = f"{plan.run.namespace}/{plan.run.name}"
    return owner if isinstance(plan, RunPlan) else f"{owner}/{plan.candidate}"

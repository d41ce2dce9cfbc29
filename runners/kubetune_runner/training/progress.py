"""What a run reports while it trains, and how it is stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubetune.api.run.plan import (
    METRIC_ETA,
    METRIC_STEP,
    METRIC_TOKENS_PER_SECOND,
    TAG_TOTAL_STEPS,
)
from transformers.trainer_callback import TrainerCallback

from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.signals import StopSignal
from kubetune_runner.stages import Report, unseen
from kubetune_runner.training import checkpoints, strategies
from kubetune_runner.training.workers import SINGLE_WORKER, Workers

if TYPE_CHECKING:
    from kubetune_runner.training.trainer import RunTrainer

log = logging.getLogger(__name__)


class Progress(TrainerCallback):
    """Reports to the tracker, seals checkpoints, stops on signals and on a lost loss."""

    def __init__(
        self,
        tracker: Tracker,
        stop: StopSignal,
        lineage_digest: str,
        workers: Workers = SINGLE_WORKER,
        save_minutes: int | None = None,
    ) -> None:
        self.trainer: RunTrainer | None = None
        self.lost = False
        """Whether the loss stopped being a number."""
        self._tracker = tracker
        self._stop = stop
        self._lineage_digest = lineage_digest
        self._workers = workers
        self._save_seconds = 60 * save_minutes if save_minutes else None
        self._saved = self._began = time.monotonic()
        self._first_step = self._step = self._total = 0
        self._report_steps: Report = unseen

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Training starts or continues."""
        if self.trainer is not None:
            strategies.check(self._workers, self.trainer.model_wrapped)
        self.begin(state)

    def begin(self, state: Any) -> None:
        """Report where training stands, which may be at its end."""
        self._saved = self._began = time.monotonic()
        self._first_step = self._step = state.global_step
        self._total = state.max_steps
        # An attempt that was killed took its unsent reports with it; the checkpoint has them.
        for entry in state.log_history:
            self._report(entry, entry["step"])
        self._report_steps = self._tracker.stages.begin(
            "training", "steps", self._total, self._step
        )
        self._tracker.tags({TAG_TOTAL_STEPS: str(state.max_steps)})
        self._tracker.watch(self._gauges)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop before more work when told so."""
        # With several workers all stop after the same step.
        if self._stop.received and not self._workers.several:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step was made."""
        self._step = state.global_step
        self._report_steps(self._step, self._total)
        if state.global_step >= state.max_steps:
            control.should_log = True
        if self._workers.agree(self._stop.received):
            # Told to another worker, it is meant for this one too.
            self._stop.received = True
            control.should_save = control.should_training_stop = True
        elif self._save_seconds is not None:
            # The clocks of workers differ.
            late = time.monotonic() - self._saved >= self._save_seconds
            control.should_save = self._workers.agree(late) or control.should_save

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Metrics of a step."""
        values = self._report(logs or {}, state.global_step)
        if not all(math.isfinite(values.get(key, 0.0)) for key in ("loss", "eval_loss")):
            self.lost = control.should_training_stop = True
            control.should_save = False
        if values:
            log.info(
                "step %d/%d: %s",
                state.global_step,
                state.max_steps,
                " ".join(f"{key}={value:.4g}" for key, value in values.items()),
            )

    def _report(self, logs: Mapping[str, Any], step: int) -> dict[str, float]:
        """Pass a step's metrics on; returns them."""
        # The trainer's final values are sums over the run, which don't belong to a step.
        if "train_runtime" in logs:
            return {}
        values = {
            key: float(value)
            for key, value in logs.items()
            if isinstance(value, int | float) and key != "step"
        }
        self._tracker.metrics(values, step, once=True)
        return values

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint was written."""
        self._saved = time.monotonic()
        # Each worker adds a file of its own to it.
        self._workers.agree(True)
        if not self._workers.leads:
            return
        folder = Path(args.output_dir) / f"{checkpoints.PREFIX}{state.global_step}"
        checkpoints.seal(folder, self._lineage_digest)
        self.keeps(folder)

    def keeps(self, checkpoint: Path | None) -> None:
        """Report the checkpoint that the next attempt would continue from; None: there is none."""
        if checkpoint is None:
            self._tracker.checkpoint(0, time.time())
        else:
            step = checkpoints.step_of(checkpoint)
            self._tracker.checkpoint(step, checkpoints.sealed_at(checkpoint))

    def _gauges(self) -> tuple[int, Mapping[str, float]] | None:
        done = self._step - self._first_step
        values: dict[str, float] = {METRIC_STEP: self._step}
        seconds = time.monotonic() - self._began
        if done > 0 and seconds > 0:
            values[METRIC_ETA] = seconds / done * (self._total - self._step)
            values[METRIC_TOKENS_PER_SECOND] = (
                self.trainer.tokens_seen / seconds if self.trainer else 0.0
            )
        return self._step, values

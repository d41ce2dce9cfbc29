"""An end for a training that hangs: no step for as long as the job allows.

Collectives that wait for nobody, drivers and network disks leave a process that lives and does
nothing, while it holds a GPU.
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import time
import traceback
from types import FrameType
from typing import Any

from transformers.trainer_callback import TrainerCallback

from kubetune_runner.errors import no_progress

LAST_RESORT_SECONDS = 30.0
"""Longer, for what no exception can end: a library that waits and holds Python's lock."""
_LOOKED_AT_SECONDS = 1.0
"""Between two times that the last resort is put off, which starts a thread."""

log = logging.getLogger(__name__)


class HangGuard(TrainerCallback):
    """Raises RunError NoProgress in the main thread when there is no step for so many seconds.

    A step is one of training, of evaluation in between, or a checkpoint. Where the main thread
    doesn't come to it, the process ends with exit code 1, and prints the tracebacks of all threads.
    """

    def __init__(self, seconds: float, last_resort: float = LAST_RESORT_SECONDS) -> None:
        self._seconds = seconds
        self._last_resort = last_resort
        self._put_off = float("-inf")
        self._before: Any = None
        self._signals = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to watch."""
        try:
            self._before = signal.signal(signal.SIGALRM, self._overdue)
        except ValueError:
            log.warning("not in the main thread: a run that hangs will end without an outcome")
        else:
            self._signals = True
        self._alive()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step of the optimizer."""
        self._alive()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A batch of held-out rows."""
        self._alive()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint."""
        self._alive()

    def over(self) -> None:
        """Watch no longer, however the training has ended."""
        faulthandler.cancel_dump_traceback_later()
        if self._signals:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # None is a handler that wasn't set from Python.
            signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)
            self._signals = False

    def _alive(self) -> None:
        if self._signals:
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
        if (now := time.monotonic()) - self._put_off >= _LOOKED_AT_SECONDS:
            self._put_off = now
            last = self._seconds + self._last_resort + _LOOKED_AT_SECONDS
            faulthandler.dump_traceback_later(last, exit=True)

    def _overdue(self, _number: int, frame: FrameType | None) -> None:
        where = "".join(traceback.format_stack(frame))
        log.error("no step for %g seconds; the training is at\n%s", self._seconds, where)
        raise no_progress(self._seconds, "the training made no step")

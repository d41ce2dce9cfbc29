"""A training that makes no step for too long ends, and the next attempt continues it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kubetune_runner.errors import RunError
from kubetune_runner.training.checkpoints import numbered
from kubetune_runner.training.progress import Progress

from tests.runners.conftest import PlanFactory
from tests.runners.fitting import fitted

LIMIT: dict[str, Any] = {"progressDeadlineSeconds": 10}


@pytest.mark.training
def test_a_training_that_hangs_ends_and_is_continued(
    make_plan: PlanFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    class Hanging(Progress):
        def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step == 5:
                # Sooner than the limit of the plan, which has a lower bound.
                signal.setitimer(signal.ITIMER_REAL, 0.2)
                time.sleep(600)
            super().on_step_begin(args, state, control, **others)

    plan = make_plan(
        training=LIMIT | {"hyperparameters": {"maxSteps": 8}, "checkpoint": {"everySteps": 2}}
    )
    before = signal.getsignal(signal.SIGALRM)
    with monkeypatch.context() as patched:
        patched.setattr("kubetune_runner.training.progress.Progress", Hanging)
        with pytest.raises(RunError) as error:
            fitted(plan)
    assert (error.value.reason, error.value.retryable) == ("NoProgress", True)
    assert "no step for 10 seconds" in error.value.message
    assert "on_step_begin" in caplog.text
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert numbered(tmp_path / "checkpoints")[-1].name == "checkpoint-4"

    again, _ = fitted(plan)
    assert again.state.global_step == 8
    assert signal.getsignal(signal.SIGALRM) == before


HOLDS_THE_LOCK = """
import ctypes, signal
from kubetune_runner.training.hang import HangGuard
guard = HangGuard(0.2, last_resort=0.2)
guard.on_train_begin(None, None, None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
print("waits", flush=True)
ctypes.PyDLL(None).sleep(600)
"""


def test_what_no_exception_ends_ends_with_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_THE_LOCK], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (1, "waits\n")
    assert "Timeout" in done.stderr
    assert 'File "<string>", line 8' in done.stderr

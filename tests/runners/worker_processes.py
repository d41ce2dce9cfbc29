"""Runs the workers of a plan as processes, without paying for imports in each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from kubetune.api.run.outcome import Outcome
from kubetune.api.run.plan import RunPlan
from kubetune_runner import outcomes
from kubetune_runner.mlflow import closing
from kubetune_runner.signals import StopSignal
from kubetune_runner.training import run as train
from kubetune_runner.training.progress import Progress

SECONDS = 400
AtStep = Callable[[int, int], None]
"""Called in a worker with its rank after each optimizer step."""


def run_workers(plan: RunPlan, at_step: AtStep | None = None) -> list[Outcome | None]:
    """The outcome of each worker by rank; None for one that was killed.

    They are forked: what trains is imported once, here. Nothing listens at the plan's tracking
    server, so a leader that has trained ends with TrackingUnavailable.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    started: list[tuple[Any, Any]] = []
    for rank in range(plan.workers):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(plan, rank, port, at_step, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    found: list[Outcome | None] = []
    for process, pipe in started:
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise AssertionError("a worker didn't end in time")
        found.append(pipe.recv() if process.exitcode == 0 else None)
    return found


def _work(plan: RunPlan, rank: int, port: int, at_step: AtStep | None, pipe: Any) -> None:
    os.environ |= {
        "KUBETUNE_WORKER": str(rank),
        "KUBETUNE_RENDEZVOUS": f"localhost:{port}",
        "KUBETUNE_UPLOAD_PATIENCE_SECONDS": "0",
    }
    closing.CLOSE_SECONDS = 0.1
    if at_step is not None:
        after, told = Progress.on_step_end, at_step

        def on_step_end(self: Progress, args: Any, state: Any, control: Any, **more: Any) -> None:
            told(rank, state.global_step)
            after(self, args, state, control, **more)

        Progress.on_step_end = on_step_end
    stop = StopSignal()
    stop.install()
    try:
        outcome = train.run(plan, stop)
    except BaseException as error:
        outcome = outcomes.from_error(error)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(outcome)
    pipe.close()
    # No clean-up of what was forked.
    os._exit(0)

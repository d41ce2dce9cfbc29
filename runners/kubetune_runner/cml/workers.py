"""Further workers of a run in a CML project: engines that the run launches and watches itself.

They end with the engine that launched them, and share the project's files with it. CML tells
nobody else of them, so this run alone can say that one died.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from kubetune.api.bounded import NOTE, OUTCOME, file_text, json_value
from kubetune.api.run.outcome import WORKER_LOST, Outcome
from kubetune.api.run.plan import (
    ENV_RENDEZVOUS,
    ENV_SCRIPT,
    ENV_WORKER,
    ENV_WORKER_RESOURCES,
    ENV_WORKER_VARIABLES,
    outcome_path,
)

from kubetune_runner.__main__ import leave
from kubetune_runner.errors import RunError

MODULES = ("cml.workers_v1", "cdsw")
"""Of a workload's image; the second is that of older images."""
PATIENCE_SECONDS = 60.0
"""For the training to notice by itself that a worker is gone, and to be told why."""
PAUSE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Engines:
    """The further workers of one attempt."""

    def __init__(self, project: Path, run_key: str, attempt: int) -> None:
        self._project, self._run_key, self._attempt = project, run_key, attempt
        self._api: Any = None
        self._ids: dict[int, str] = {}
        """Worker -> engine."""
        self._size = 1
        self._blamed: Outcome | None = None
        self._told = threading.Event()
        self._over = threading.Event()

    def launch(self, plan: Any) -> None:
        """Start the workers that the plan asks for besides this one.

        Raises RunError WorkersUnavailable.
        """
        self._size = plan.get("workers", 1) if isinstance(plan, dict) else 1
        if self._size == 1:
            return
        self._api = _workers_api()
        resources: dict[str, Any] = json_value(os.environ.get(ENV_WORKER_RESOURCES) or "{}", NOTE)
        address = os.environ.get("CDSW_IP_ADDRESS") or socket.gethostbyname(socket.gethostname())
        # What the job gives to its run; CML gives workers what is the project's alone.
        names = (os.environ.get(ENV_WORKER_VARIABLES) or "").split(",")
        given = {name: os.environ[name] for name in names if name in os.environ}
        given[ENV_RENDEZVOUS] = f"{address}:{_free_port()}"
        os.environ |= {ENV_WORKER: "0", ENV_RENDEZVOUS: given[ENV_RENDEZVOUS]}
        for worker in range(1, self._size):
            (self._project / outcome_path(self._run_key, self._attempt, worker)).unlink(
                missing_ok=True
            )
            environment = given | {ENV_WORKER: str(worker)}
            try:
                made = self._api.launch_workers(
                    n=1, script=os.environ[ENV_SCRIPT], env=environment, **resources
                )
            except Exception as error:
                raise RunError(
                    "WorkersUnavailable",
                    f"CML didn't launch worker {worker} of {self._size}: {error}",
                    retryable=True,
                ) from error
            self._ids[worker] = str(made[0]["id"])
            threading.Thread(
                target=self._watch, args=(worker,), name=f"worker {worker}", daemon=True
            ).start()

    def explain(self, outcome: Outcome) -> Outcome:
        """The outcome of the worker that is to blame, where this one only lost it."""
        if outcome.reason == WORKER_LOST and self._ids:
            self._told.wait(PATIENCE_SECONDS)
            outcome = self._blamed or outcome
        self._over.set()
        return outcome

    def close(self) -> None:
        """Stop the workers that are still there."""
        self._over.set()
        if self._ids:
            try:
                self._api.stop_workers(*self._ids.values())
            # They end with this engine anyway.
            except Exception as error:
                log.info("workers not stopped: %s", error)

    def _watch(self, worker: int) -> None:
        """Wait for a worker's end, and end the run with it unless it went well."""
        failed = self._wait(worker)
        if not failed or self._over.is_set() or self._told.is_set():
            return
        self._blamed = self._blame(worker)
        self._told.set()
        log.warning("%s", self._blamed.message)
        if not self._over.wait(PATIENCE_SECONDS):
            # The training hangs: a GPU's exchange can't be interrupted.
            leave(self._blamed)
            os.kill(os.getpid(), signal.SIGKILL)

    def _wait(self, worker: int) -> bool:
        """Whether the worker failed, once it has ended."""
        while not self._over.is_set():
            try:
                # By default those that still train after 60 seconds count as failed; 0 is no limit.
                self._api.await_workers(
                    [self._ids[worker]], wait_for_completion=True, timeout_seconds=0
                )
            except Exception as error:
                log.warning("worker %d can't be watched: %s", worker, error)
                self._over.wait(PAUSE_SECONDS)
                continue
            # Its own outcome counts: a kernel that dies quietly ends like one that is done.
            outcome = self._outcome(worker)
            return outcome is None or outcome.status != "succeeded"
        return False

    def _outcome(self, worker: int) -> Outcome | None:
        path = self._project / outcome_path(self._run_key, self._attempt, worker)
        try:
            return Outcome.from_message(file_text(path, OUTCOME))
        except (OSError, ValueError):
            return None

    def _blame(self, worker: int) -> Outcome:
        """How the run ends because of a worker."""
        outcome = self._outcome(worker) or Outcome(
            status="failed",
            reason=WORKER_LOST,
            message="it ended without an outcome; the run's console has its log",
            retryable=True,
        )
        message = f"worker {worker} of {self._size}: {outcome.message}"
        return outcome.model_copy(update={"message": message[:1024], "summary": {}})


def _workers_api() -> Any:
    for name in MODULES:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise RunError(
        "WorkersUnavailable",
        f"this runtime has neither {' nor '.join(MODULES)}, with which a run launches workers:"
        " choose another runtime in the compute target, or set workers to 1",
    )


def _free_port() -> int:
    """A port that nobody uses now; the engine's address is its own."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])

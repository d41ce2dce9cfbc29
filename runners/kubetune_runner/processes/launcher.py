"""The parent of the processes that train in one worker: it starts them and tells how they ended.

It imports nothing heavy, so that all memory is theirs. Each is ``python -m kubetune_runner`` with a
number and leaves an outcome of its own; one of these is the worker's.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import site
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import kubetune
from kubetune.api.bounded import OUTCOME, file_text
from kubetune.api.run.outcome import WORKER_LOST, Outcome, last_lines
from kubetune.api.run.plan import ENV_PROCESS, ENV_RENDEZVOUS, RunPlan
from kubetune.api.run.redact import redactor

import kubetune_runner
from kubetune_runner.processes.group import GRACE_SECONDS, End, Group, threads
from kubetune_runner.signals import Interrupted, StopSignal
from kubetune_runner.training.out_of_memory import REASON, Kills
from kubetune_runner.training.workers import rendezvous, worker_of

ENV_TERMINATION_LOG = "KUBETUNE_TERMINATION_LOG"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Left:
    """How a process ended, and what it has left."""

    end: End
    outcome: Outcome | None
    last_errors: Sequence[str] = ()

    @property
    def is_lost(self) -> bool:
        """Whether it ended since another one did."""
        aborted = self.outcome is None and self.end.code == -signal.SIGABRT
        # NCCL ends a process so whose peer is gone.
        return aborted or (self.outcome is not None and self.outcome.reason == WORKER_LOST)


def run(plan: RunPlan, stop: StopSignal) -> Outcome:
    """Have the worker's processes train; the outcome of all of them.

    Where a process was killed, the outcome has its exit code, for this one to end with. Raises
    Interrupted after a signal.
    """
    folder = Path(tempfile.mkdtemp(prefix="kubetune-processes-"))
    kills = Kills()
    log.info("starting %d processes", plan.processes)
    first = worker_of(plan) * plan.processes

    def name(number: int) -> str:
        return f"rank {first + number}"

    try:
        files = [folder / f"outcome-{number}.json" for number in range(plan.processes)]
        command = [sys.executable, "-P", "-m", "kubetune_runner"]
        group = Group(command, Path.cwd(), _environments(plan, files), redactor(os.environ), name)
        interrupted = None
        try:
            group.wait(stop, GRACE_SECONDS)
        except Interrupted as error:
            interrupted = error
        left = [
            Left(end, _outcome(files[end.number]), list(group.last_errors[end.number]))
            for end in group.ends
        ]
        if interrupted and any(item.end.code for item in left):
            raise interrupted
        return outcome_of(left, plan, first, short_of_memory=kills.some())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def outcome_of(
    left: Sequence[Left], plan: RunPlan, first: int, *, short_of_memory: bool
) -> Outcome:
    """What the worker's processes have come to.

    ``left`` are all of them in the order in which they ended, ``first`` is the rank of the first.
    ``short_of_memory`` tells that the system has killed processes of this container for it.
    """
    by_number = {item.end.number: item for item in left}
    speaks = by_number[0].outcome
    if speaks is not None and all(item.end.code == 0 for item in left):
        return speaks
    blamed = _blamed(left)
    rank = f"rank {first + blamed.end.number} of {plan.world_size}"
    if blamed.outcome is None:
        return _without_outcome(blamed, rank, short_of_memory=short_of_memory)
    told = blamed.outcome
    if speaks is not None and (speaks.reason, speaks.message) == (told.reason, told.message):
        # What ends all of them alike is no matter of one of them.
        return speaks
    if told.status == "interrupted":
        return told
    message = f"{rank}: {told.message}"
    return told.model_copy(update={"message": message[:1024]})


def _blamed(left: Sequence[Left]) -> Left:
    """The first that ended by itself, and not since another one did."""
    failed = [item for item in left if item.end.failed]
    stopped = [i for i in failed if i.outcome and i.outcome.status == "interrupted"]
    own = [item for item in failed if not item.is_lost and item not in stopped]
    return next(iter([*own, *stopped, *failed, *(i for i in left if i.end.code), *left]))


def _without_outcome(blamed: Left, rank: str, *, short_of_memory: bool) -> Outcome:
    """The outcome of a process that couldn't leave one."""
    code = blamed.end.code
    how = f"exit code {code}"
    if code < 0:
        how = f"exit code {128 - code} ({_signal_name(-code)})"
    message = f"{rank}: The process ended with {how}"
    reason = "RunFailed"
    if short_of_memory and code == -signal.SIGKILL:
        reason = REASON
        message = f"{rank}: The run's memory is too small: the system has killed the process"
    elif blamed.last_errors:
        message += f": {blamed.last_errors[-1]}"
    outcome = Outcome(
        status="failed",
        reason=reason,
        message=message[:1024],
        retryable=True,
        log=last_lines("\n".join(blamed.last_errors)),
    )
    return outcome.model_copy(update={"exit_code": 128 - code}) if code < 0 else outcome


def _environments(plan: RunPlan, files: Sequence[Path]) -> list[dict[str, str]]:
    """The environment of each process: this one's, a number, and a place for its outcome."""
    shared = threads(plan.processes) | os.environ
    shared |= {"PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1"}
    if plan.workers == 1:
        host, port = rendezvous(plan)
        shared[ENV_RENDEZVOUS] = f"{host}:{port}"
    return [
        shared | {ENV_PROCESS: str(number), ENV_TERMINATION_LOG: str(file)}
        for number, file in enumerate(files)
    ]


def _python_path() -> str:
    """Where the processes find what this one has imported, where it isn't installed."""
    packages = [Path(str(module.__file__)).parent.parent for module in (kubetune_runner, kubetune)]
    installed = {Path(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
    own = [str(folder) for folder in dict.fromkeys(packages) if folder not in installed]
    return os.pathsep.join(filter(None, [*own, os.environ.get("PYTHONPATH", "")]))


def _outcome(file: Path) -> Outcome | None:
    try:
        return Outcome.from_message(file_text(file, OUTCOME))
    except (OSError, ValueError):
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

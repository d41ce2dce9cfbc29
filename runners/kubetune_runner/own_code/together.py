"""The user's code as the processes of one worker: what each is given, and how all of them ended."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kubetune.api.run.outcome import WORKER_LOST
from kubetune.api.run.plan import RunPlan

from kubetune_runner.errors import RunError
from kubetune_runner.own_code import ending
from kubetune_runner.own_code.handover import REPORTING
from kubetune_runner.own_code.protocol import ENV_TOKEN_FILE, ENV_URL
from kubetune_runner.processes.group import End, Group, threads
from kubetune_runner.retrying import repeated
from kubetune_runner.training.workers import Workers, rendezvous, worker_of

NAME_SECONDS = 1800.0
"""For worker 0's pod to have an address."""
_PAUSE_SECONDS = 0.5
_LOST = re.compile(
    r"(gloo|nccl|processgroup|tcpstore).*(closed|reset|abort|timed? ?out|fail|remote)"
    r"|connection (closed|reset) by peer|broken pipe|Dist(Backend|Network|Store)Error",
    re.IGNORECASE,
)
"""What libraries say of a process that is gone."""
_REPORTING = frozenset({*REPORTING, ENV_URL, ENV_TOKEN_FILE})
_LAST = 5
"""Lines at the end in which an error is named."""


def start(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    plan: RunPlan,
    redact: Callable[[str], str],
) -> Group:
    """Start the code: one process, or each of this worker's with the variables of torchrun.

    The first of all processes alone can report. Raises RunError WorkersMissing.
    """
    if plan.world_size == 1:
        return Group(command, folder, [environment], redact)
    worker, place = worker_of(plan), rendezvous(plan)
    if worker:
        _await_name(place[0])
    environments: list[dict[str, str]] = []
    for local in range(plan.processes):
        workers = Workers.at(plan, local, place)
        hidden = _REPORTING if workers.rank else ()
        kept = {name: value for name, value in environment.items() if name not in hidden}
        environments.append(threads(plan.processes) | kept | workers.variables)
    first = worker * plan.processes
    return Group(command, folder, environments, redact, lambda number: f"rank {first + number}")


def check(ends: Sequence[End], group: Group, plan: RunPlan, *, short_of_memory: bool) -> None:
    """Nothing when all processes ended well.

    Raises RunError as ``ending.check`` does, with the rank of the one to blame, and WorkerLost
    where all of this worker's ended because one elsewhere did.
    """
    blamed = to_blame(ends, group)
    if blamed is None:
        return
    code, lines = blamed.code, list(group.last_errors[blamed.number])
    if plan.world_size == 1:
        ending.check(code, lines, short_of_memory=short_of_memory)
        return
    if plan.workers > 1 and is_lost(blamed, lines):
        message = f"another worker has ended or can't be reached{ending.said(lines)}"
        raise RunError(WORKER_LOST, message, retryable=True)
    killed = code == -signal.SIGKILL
    try:
        ending.check(code, lines, short_of_memory=short_of_memory and killed)
    except RunError as error:
        rank = worker_of(plan) * plan.processes + blamed.number
        message = f"rank {rank} of {plan.world_size}: {error.message}"
        raise RunError(error.reason, message, retryable=error.retryable) from error


def ended_first(ends: Sequence[End], group: Group) -> tuple[int, list[str]]:
    """Exit code and last lines of the process to blame."""
    blamed = to_blame(ends, group)
    return (blamed.code, list(group.last_errors[blamed.number])) if blamed else (0, [])


def to_blame(ends: Sequence[End], group: Group) -> End | None:
    """The first that failed by itself and not since another one was gone; None: all went well."""
    failed = [end for end in ends if end.failed]
    own = [end for end in failed if not is_lost(end, group.last_errors[end.number])]
    left = [end for end in ends if end.code]
    return next(iter([*own, *failed, *left]), None)


def is_lost(end: End, lines: Sequence[str]) -> bool:
    """Whether a process ended since another one did, by what it said last."""
    # NCCL ends a process so whose peer is gone.
    return end.code == -signal.SIGABRT or (
        end.code > 0 and any(_LOST.search(line) for line in list(lines)[-_LAST:])
    )


def _await_name(host: str) -> None:
    """Wait until worker 0's name leads somewhere; the code's own library may not."""
    try:
        repeated(
            lambda: socket.getaddrinfo(host, None),
            may_pass=lambda error: isinstance(error, OSError),
            pause=lambda *_: _PAUSE_SECONDS,
            until=time.monotonic() + NAME_SECONDS,
        )
    except OSError as error:
        raise RunError(
            "WorkersMissing",
            f"worker 0 has no address at {host}: {error}; see whether all workers run",
            retryable=True,
        ) from error

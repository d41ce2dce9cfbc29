"""What the end of the user's code means for the run."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from kubetune.api.training.own_code import EXIT_RETRY

from kubetune_runner.errors import RunError
from kubetune_runner.training.out_of_memory import REASON

MAX_WORDS = 700
"""Characters of the last lines in a message."""
_NO_MEMORY = re.compile(r"out ?of ?memory|^MemoryError|can(no|')t allocate memory", re.IGNORECASE)
_REFUSED_REPORT = re.compile(r"mlflow\.exceptions\.\w+:")
_LAST = 3
"""Lines at the end in which an error is named."""


def check(code: int, last_lines: list[str], *, short_of_memory: bool = False) -> None:
    """Nothing for exit code 0.

    ``short_of_memory`` tells that the system has killed processes of this container for it. Raises
    RunError OutOfMemory, ScriptKilled or ScriptFailed, which may be tried again after a signal,
    with too little memory and with exit code 75.
    """
    if code == 0:
        return
    words = said(last_lines)
    if short_of_memory:
        message = f"the code used more memory than the run may, and the system killed it{words}"
        raise RunError(REASON, message, retryable=True)
    if code < 0:
        name = _signal_name(-code)
        hint = (
            "; usually that is a lack of memory: raise resources.memory, or lower the batch size"
            if -code == signal.SIGKILL
            else ""
        )
        raise RunError("ScriptKilled", f"the code was ended by {name}{hint}{words}", retryable=True)
    if any(_NO_MEMORY.search(line) for line in last_lines[-_LAST:]):
        raise RunError(REASON, f"the code ran out of memory{words}", retryable=True)
    if code == EXIT_RETRY:
        message = f"the code asked for another attempt (exit code 75){words}"
        raise RunError("ScriptFailed", message, retryable=True)
    raise RunError("ScriptFailed", f"the code ended with exit code {code}{words}")


def is_bookkeeping(code: int, last_lines: Iterable[str]) -> bool:
    """Whether the code ended since MLflow took no report of it, which costs no saved result."""
    ours = code > 0 and code != EXIT_RETRY
    return ours and any(_REFUSED_REPORT.match(line) for line in last_lines)


def said(last_lines: list[str]) -> str:
    """The end of the standard error, as much of it as a message holds."""
    kept: list[str] = []
    room = MAX_WORDS
    for line in reversed(last_lines):
        text = line.strip()
        # The last line tells most, so it stays whole.
        if kept and len(text) + 3 > room:
            break
        kept.append(text[:MAX_WORDS])
        room -= len(text) + 3
    return f"; its last lines: {' | '.join(reversed(kept))}" if kept else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

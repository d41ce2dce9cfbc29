"""Tells errors that mean too little memory from others, whatever library raises them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubetune.api.bounded import NOTE, file_text

REASON = "OutOfMemory"
KILLS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)
"""Where the system counts what it has killed in this container: of cgroups 2 and 1."""
_COUNT = "oom_kill"
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "not enough memory",
)
"""What torch's allocators, CUDA's libraries and the system call it."""


def out_of_memory(error: BaseException) -> str | None:
    """A sentence when the error, or one that it came from, means too little memory."""
    for cause in _chain(error):
        if isinstance(cause, MemoryError):
            return _sentence("The run's", cause)
        torch: Any = sys.modules.get("torch")
        if torch is not None and isinstance(cause, torch.OutOfMemoryError):
            return _sentence("The GPU's", cause)
        text = str(cause).lower()
        if isinstance(cause, (RuntimeError, OSError)) and any(word in text for word in _WORDS):
            gpu = "cuda" in text or "cublas" in text or "cudnn" in text
            return _sentence("The GPU's" if gpu else "The run's", cause)
    return None


class Kills:
    """Processes of this container that the system has killed for their memory since a moment.

    A run sees no more of it than that a process of its own was killed, by somebody.
    """

    def __init__(self) -> None:
        self._before = _killed()

    def some(self) -> bool:
        """Whether there were any; False where nobody counts them."""
        return _killed() > self._before


def _killed() -> int:
    for path in KILLS:
        try:
            lines = file_text(path, NOTE).splitlines()
        except (OSError, ValueError):
            continue
        for line in lines:
            name, _, number = line.partition(" ")
            if name == _COUNT and number.isdigit():
                return int(number)
    return 0


SINCE_START = Kills()
"""Since this was imported, which is when the run begins."""


def _sentence(whose: str, error: BaseException) -> str:
    said = (str(error).splitlines() or [""])[0][:200]
    return f"{whose} memory is too small: {said or type(error).__name__}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__

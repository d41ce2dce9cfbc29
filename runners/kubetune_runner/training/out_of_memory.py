"""Tells errors that mean too little memory from others, whatever library raises them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

REASON = "OutOfMemory"
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

"""The clocks of modules that ask the machine: they show the time of the world at work."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Any

from kubetune.targets.cml import backend, following, submission, workspace


def _epoch() -> datetime:
    raise RuntimeError("no world is at work")


_now: Callable[[], datetime] = _epoch


class _Time:
    """In place of the module ``time``."""

    @staticmethod
    def monotonic() -> float:
        return _now().timestamp()

    time = monotonic


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return _now()


def set_clocks(now: Callable[[], datetime]) -> None:
    """Have them show this world's time."""
    global _now
    _now = now
    for module in (backend, following, submission, workspace):
        module.time = _Time  # type: ignore[attr-defined]
    following.datetime = _Datetime  # type: ignore[attr-defined]


def reset_clocks() -> None:
    """Have them show the machine's time again, for what comes after the world's end."""
    for module in (backend, following, submission, workspace):
        module.time = time  # type: ignore[attr-defined]
    following.datetime = datetime  # type: ignore[attr-defined]

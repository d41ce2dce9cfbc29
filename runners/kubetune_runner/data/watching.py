"""How far reading and tokenizing have come, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Report = Callable[[int, int | None], None]
"""Told how many rows are done, and how many there are, None while nobody knows."""


class Watch(Protocol):
    """Who is told that a stage begins, and of what it counts."""

    def begin(
        self, stage: Any, unit: Any = None, total: int | None = None, done: int = 0
    ) -> Report:
        """``stage`` is ``reading`` or ``tokenizing``, ``unit`` is ``rows``."""
        ...


class Unwatched:
    """Nobody looks."""

    def begin(
        self, stage: Any, unit: Any = None, total: int | None = None, done: int = 0
    ) -> Report:
        """What it is told is lost."""
        return lambda done, total=None: None


UNWATCHED = Unwatched()
EVERY_ROWS = 1000
"""Between two reports."""

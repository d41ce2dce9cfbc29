"""An event loop in virtual time: its clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

ROUNDING = 1e-6
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what is ready, and then time passes at once. Nothing outside can wake it."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Jump(self))
        # A timer that rings before its time would be set again, for ever at the same moment.
        self._clock_resolution = 0.0

    def time(self) -> float:
        """Seconds since EPOCH."""
        return self._now

    def now(self) -> datetime:
        """The wall clock's time."""
        return EPOCH + timedelta(seconds=self._now)

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and a timer be over that sums of floats come near only."""
        self._now += seconds
        timers: Any = getattr(self, "_scheduled", ())
        if timers and abs(timers[0].when() - self._now) < ROUNDING:
            self._now = max(self._now, math.nextafter(timers[0].when(), math.inf))

    def run_for(self, seconds: float) -> None:
        """Run everything that is due in the next seconds."""
        self.call_at(self._now + seconds, self.stop)
        self.run_forever()


class _Jump(selectors.BaseSelector):
    """Waits for nothing: no input ever comes."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._keys: dict[int, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and no timer is set")
        self._loop.pass_by(timeout)
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

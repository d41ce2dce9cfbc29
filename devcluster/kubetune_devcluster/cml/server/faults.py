"""Bad days: requests that fail before or after their effect."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ANY = "*"


@dataclass
class Fault:
    """What happens to the next ``times`` requests of an operation (None: to all)."""

    operation: str
    times: int | None
    when: Literal["before", "after"]
    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    html: bool = False
    hang: float | None = None
    close: bool = False
    message: str = ""
    hold: threading.Event | None = None
    hits: int = 0

    def left(self) -> bool:
        """Whether it still happens."""
        return self.times is None or self.hits < self.times


class Faults:
    """The faults to come; the first that fits a request is used."""

    def __init__(self, operations: frozenset[str]) -> None:
        self._operations = operations
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(
        self,
        operation: str,
        times: int | None = 1,
        when: Literal["before", "after"] = "before",
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        html: bool = False,
        hang: float | None = None,
        close: bool = False,
        message: str = "",
        hold: threading.Event | None = None,
    ) -> Fault:
        """Let requests of an operation (such as ``create_job``; ``*`` for all) fail.

        ``before``: nothing happens but the answer; ``after``: the effect happens first. The
        answer is ``status`` (500 unless ``hang`` or ``close`` is given), comes ``hang`` seconds
        late, or is a closed connection. With ``hang`` alone the answer is the right one, late;
        with ``hold`` alone likewise, when somebody sets it.
        Returns the fault, whose ``hits`` counts what it did.
        """
        if operation != ANY and operation not in self._operations:
            raise ValueError(f"no operation {operation!r}; write it like create_job")
        if status is None and hang is None and hold is None and not close:
            status = 500
        fault = Fault(
            operation, times, when, status, dict(headers or {}), html, hang, close, message, hold
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """End a fault early; one that is over already is fine."""
        with self._lock:
            if fault in self._faults:
                self._faults.remove(fault)

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, operation: str) -> Fault | None:
        """The fault that a request of the operation meets, counted."""
        with self._lock:
            for fault in self._faults:
                if fault.operation in (operation, ANY) and fault.left():
                    fault.hits += 1
                    if not fault.left():
                        self._faults.remove(fault)
                    return fault
        return None

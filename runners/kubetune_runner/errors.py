"""The one exception by which a run says why it ends: ``__main__`` turns it into an Outcome."""

from __future__ import annotations

from typing import Any


class RunError(Exception):
    """The run can't continue, for a reason the user can read.

    ``reason`` is CamelCase, ``message`` a sentence with the way out and without row text or
    secrets, ``retryable`` whether another attempt may succeed with the same plan, ``summary``
    what the outcome carries besides.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retryable: bool = False,
        summary: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message if len(message) <= 1024 else f"{message[:1023]}…"
        self.retryable = retryable
        self.summary = summary or {}


def no_progress(seconds: float, what: str) -> RunError:
    """An attempt that hangs; the next one may not."""
    return RunError(
        "NoProgress",
        f"{what} for {seconds:g} seconds, which spec.progressDeadlineSeconds allows; the run's log"
        " has more",
        retryable=True,
    )

"""Calls that are repeated where that may help: tenacity, as runs use it.

Imported with the first call: a runtime that only inspects needn't have it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")


def repeated(
    call: Callable[[], T],
    *,
    may_pass: Callable[[BaseException], bool],
    pause: Callable[[BaseException, int], float],
    attempts: int | None = None,
    until: float | None = None,
    tell: Callable[[BaseException, float], None] = lambda error, seconds: None,
    sleep: Callable[[float], Any] | None = None,
) -> T:
    """The call's result; raises what its last try has raised.

    ``may_pass`` tells which errors are worth another try, ``pause`` how many seconds come before
    it, by the error and the number of tries so far, and ``tell`` is told of both. It ends after
    ``attempts`` tries, or with the first that fails after ``until`` (monotonic seconds).
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_never

    def seconds(state: RetryCallState) -> float:
        if state.attempt_number == attempts:
            # Asked for though nothing follows.
            return 0.0
        wanted = pause(_failure(state), state.attempt_number)
        return wanted if until is None else min(wanted, max(0.0, until - time.monotonic()))

    stop: Any = stop_after_attempt(attempts) if attempts else stop_never
    return Retrying(
        retry=retry_if_exception(may_pass),
        stop=stop if until is None else lambda state: stop(state) or time.monotonic() >= until,
        wait=seconds,
        before_sleep=lambda state: tell(_failure(state), state.upcoming_sleep),
        sleep=sleep or time.sleep,
        reraise=True,
    )(call)


def longer(first: float, tries: int, longest: float) -> float:
    """Twice as long after each try."""
    return min(first * 2 ** min(tries - 1, 32), longest)


def _failure(state: RetryCallState) -> BaseException:
    outcome = state.outcome
    error = outcome.exception() if outcome is not None else None
    assert error is not None, "asked only after a try that failed"
    return error

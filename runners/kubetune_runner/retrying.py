"""What every repeated call asks of tenacity's state."""

from __future__ import annotations

from tenacity import RetryCallState


def failure(state: RetryCallState) -> BaseException:
    """What the last try ended with; only while it is decided whether there is another."""
    outcome = state.outcome
    error = outcome.exception() if outcome is not None else None
    assert error is not None
    return error

"""What a target says when it doesn't do what it is asked for."""

from __future__ import annotations

from kubetune.api.conditions import Reason


class BackendError(Exception):
    """The target refused or could not be reached."""

    def __init__(
        self, reason: str, message: str, *, retryable: bool, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable
        self.retry_after = retry_after
        """Seconds, when the target or the backend knows better than the caller."""


class CutLooseError(BackendError):
    """The attempt's name belongs to a run that isn't its owner's any more, and has ended.

    The attempt counts as lost: another one has another name.
    """

    def __init__(self, what: str) -> None:
        super().__init__(Reason.NAME_TAKEN, f"{what}; delete it", retryable=True)
        self.what = what

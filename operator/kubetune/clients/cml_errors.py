"""What can go wrong with a call to a CML workspace, by what the caller should do about it."""

from __future__ import annotations

from typing import ClassVar


class CmlError(Exception):
    """A call to a workspace failed; the message is for users and never holds a credential."""

    retryable: ClassVar[bool] = False
    """Whether the same call may work later without anybody changing something."""


class CredentialsError(CmlError):
    """The workspace refuses the API key, or the key's owner may not do this."""


class NotFoundError(CmlError):
    """There is no such object, or the key's owner can't see it."""


class ConflictError(CmlError):
    """The object exists already, or its state forbids the call."""


class InvalidError(CmlError):
    """The same request would be refused again."""


class ThrottledError(CmlError):
    """Too many requests; nothing was changed."""

    retryable: ClassVar[bool] = True

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds to leave the workspace alone."""


class UnavailableError(CmlError):
    """The workspace can't be reached or can't answer, and nothing was changed for sure."""

    retryable: ClassVar[bool] = True


class UnknownOutcomeError(CmlError):
    """A write whose answer was lost: it may have happened, or may still happen.

    Look before writing again: the API knows no idempotency keys.
    """

    retryable: ClassVar[bool] = True


class PackageMissingError(CmlError):
    """The ``cmlapi`` package is not installed where the operator runs."""

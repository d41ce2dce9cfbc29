"""Who may change anything: the one operator that holds the lease, while it does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar

import aiohttp

NOT_LEADING = "this operator doesn't hold the lease, so it changes nothing"


class NotLeadingError(aiohttp.ClientConnectionError):
    """A change that wasn't sent; to whoever asked for it the server is away."""

    def __init__(self) -> None:
        super().__init__(NOT_LEADING)


def always() -> bool:
    """For whom no lease counts, such as commands of people."""
    return True


_taking_back: ContextVar[bool] = ContextVar("taking_back", default=False)


@contextlib.contextmanager
def taking_back() -> Generator[None]:
    """Changes within the block need no lease: they take back what this process has made too much.

    One that was paused may have sent a request when another operator had already made the same.
    The other doesn't look again, so who has made the second removes it, lease or not.
    """
    token = _taking_back.set(True)
    try:
        yield
    finally:
        _taking_back.reset(token)


def permits(may_write: Callable[[], bool]) -> bool:
    """Whether a change may be sent at this moment."""
    return _taking_back.get() or may_write()

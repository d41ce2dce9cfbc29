"""Who may change anything: the one operator that holds the lease, while it does."""

from __future__ import annotations

import aiohttp

NOT_LEADING = "this operator doesn't hold the lease, so it changes nothing"


class NotLeadingError(aiohttp.ClientConnectionError):
    """A change that wasn't sent; to whoever asked for it the server is away."""

    def __init__(self) -> None:
        super().__init__(NOT_LEADING)


def always() -> bool:
    """For whom no lease counts, such as commands of people."""
    return True

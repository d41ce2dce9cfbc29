"""What the watches have shown: is everything there yet, and does each of them still live?

Until everything that existed at the start has come, a Job that isn't in the cache may just not
have been seen, and must not count as lost. kopf's own barrier, its indices, wakes every listed
object for every other one: seconds of CPU at a few thousand objects.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from kubetune.metrics import WATCH_SHOWN
from kubetune.queue import Key

Scope = tuple[str, str | None]
"""A kind, and the namespace in which it is watched, None for the whole cluster."""


class Watches:
    """Of each scope that the operator watches: what a list has named, and the last sign of life."""

    def __init__(
        self, scopes: Iterable[Scope], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._shown = dict.fromkeys(scopes, clock())
        self._unlisted = set(self._shown)
        self._unseen: dict[Scope, set[Key]] = {}
        """What lists have named and nobody has shown yet, until everything is there."""
        self.complete = asyncio.Event()
        """Everything that existed at the start was seen."""

    def shown(self, scope: Scope) -> None:
        """The API server has answered, or an event or a bookmark came."""
        self._shown[scope] = self._clock()
        WATCH_SHOWN.labels(scope[0], scope[1] or "").set_to_current_time()

    def listed(self, scope: Scope, unseen: Iterable[Key]) -> None:
        """A list was complete; ``unseen`` is what it names and the cache hasn't."""
        if self.complete.is_set():
            return
        self._unlisted.discard(scope)
        self._unseen[scope] = set(unseen)
        self._settle()

    def seen(self, key: Key) -> None:
        """An object was shown, or shown to be gone."""
        if self.complete.is_set():
            return
        for scope in ((key.kind, None), (key.kind, key.namespace)):
            self._unseen.get(scope, set()).discard(key)
        self._settle()

    def silent(self, seconds: float) -> dict[Scope, float]:
        """Watches that have shown nothing for longer, and for how long."""
        now = self._clock()
        return {scope: now - shown for scope, shown in self._shown.items() if now - shown > seconds}

    def _settle(self) -> None:
        if not self._unlisted and not any(self._unseen.values()):
            self._unseen.clear()
            self.complete.set()

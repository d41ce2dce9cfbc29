"""Questions to the API server about Jobs whose answer no watch tells: asked late, and rarely."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

MAX_JOBS = 10_000
SHORTEST_SECONDS = 0.1


@dataclass
class _Asked:
    since: float
    due: float
    answer: str = ""


class RareQuestions:
    """One question about each of many Jobs, by uid.

    ``pause`` says in how many seconds a Job is asked about next, by those that have passed since
    it first could have been; that is 0 the first time.
    """

    def __init__(
        self, pause: Callable[[float], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause = pause
        self._clock = clock
        self._asked: dict[str, _Asked] = {}

    async def answer(self, uid: str, ask: Callable[[str], Awaitable[str]]) -> tuple[str, float]:
        """The newest answer, empty before the first, and the seconds until the next.

        ``ask`` is given the last one.
        """
        now = self._clock()
        if uid not in self._asked:
            if len(self._asked) >= MAX_JOBS:
                # Of Jobs that have gone meanwhile.
                self._asked.clear()
            self._asked[uid] = _Asked(now, now + self._pause(0.0))
        asked = self._asked[uid]
        if now >= asked.due:
            asked.answer = await ask(asked.answer)
            asked.due = now + self._pause(now - asked.since)
        return asked.answer, max(asked.due - now, SHORTEST_SECONDS)

    def forget(self, uid: str) -> None:
        """There is nothing to ask about a Job; if there is again, that is its first time."""
        self._asked.pop(uid, None)

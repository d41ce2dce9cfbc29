"""When the API server is asked about a Job, and what is answered meanwhile."""

from __future__ import annotations

import pytest
from kubetune.targets.kubernetes import rare_questions
from kubetune.targets.kubernetes.rare_questions import RareQuestions


class Asking:
    """Questions on a clock that a test moves; ``told`` is what the API server would say."""

    def __init__(self) -> None:
        self.now, self.told, self.asked = 100.0, "", 0
        self._questions = RareQuestions(lambda seconds: max(5.0, seconds), lambda: self.now)
        self.forget = self._questions.forget

    async def at(self, now: float, uid: str = "a") -> tuple[str, float]:
        async def ask(last: str) -> str:
            self.asked += 1
            return self.told or last

        self.now = 100.0 + now
        return await self._questions.answer(uid, ask)


async def test_it_is_asked_after_a_pause_and_less_often_the_longer_it_lasts():
    asking = Asking()
    assert await asking.at(0) == ("", 5)
    assert await asking.at(4) == ("", 1)
    asking.told = "no room"
    assert await asking.at(8) == ("no room", 8)
    assert await asking.at(15) == ("no room", 1)
    asking.told = ""
    assert await asking.at(16) == ("no room", 16)
    assert asking.asked == 2


async def test_what_is_forgotten_begins_anew():
    asking = Asking()
    asking.told = "no room"
    await asking.at(0)
    await asking.at(5)
    asking.forget("a")
    assert await asking.at(6) == ("", 5)


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rare_questions, "MAX_JOBS", 2)
    asking = Asking()
    asking.told = "no room"
    for uid in "abc":
        await asking.at(0, uid)
    assert await asking.at(5, "c") == ("no room", 5)
    assert await asking.at(5, "a") == ("", 5)

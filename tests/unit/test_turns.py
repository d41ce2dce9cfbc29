"""Turns: nobody is forgotten, nobody has too many, and who asks seldom waits for nobody's crowd."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.queue.turns import Turns

CROWD = 10_000


class Served:
    """What had its turn, in order, and what still has it."""

    def __init__(self, width: int, *, spare: bool) -> None:
        self.turns = Turns(width, spare=spare)
        self.order: list[str] = []
        self.held: Counter[str] = Counter()

    def ask(self, namespace: str, times: int = 1, *, first: bool = False, name: str = "") -> None:
        for _ in range(times):
            self.turns.ask(namespace, partial(self._go, namespace, name or namespace), first=first)

    def done(self, namespace: str) -> None:
        self.held[namespace] -= 1
        self.turns.done(namespace)

    def _go(self, namespace: str, name: str) -> None:
        self.order.append(name)
        self.held[namespace] += 1


@pytest.mark.parametrize(
    ("width", "asked", "held"),
    [
        pytest.param(16, {"a": 100}, {"a": 8}, id="alone: half"),
        pytest.param(16, {"a": 100, "b": 100}, {"a": 8, "b": 4}, id="the next one: half of that"),
        pytest.param(16, {"a": 3, "b": 100}, {"a": 3, "b": 7}, id="by what others use"),
        pytest.param(16, {"a": 1, "": 1}, {"a": 1, "": 1}, id="cluster-wide: one of them"),
        pytest.param(2, {"a": 5, "b": 5}, {"a": 1, "b": 1}, id="few"),
        pytest.param(1, {"a": 5}, {"a": 1}, id="one is not shared"),
        pytest.param(0, {"a": 5}, {}, id="not open yet"),
    ],
)
def test_some_turns_stay_free(width: int, asked: dict[str, int], held: dict[str, int]) -> None:
    served = Served(width, spare=True)
    for namespace, times in asked.items():
        served.ask(namespace, times)
    assert +served.held == Counter(held)


def test_without_spare_all_can_be_taken() -> None:
    served = Served(8, spare=False)
    served.ask("a", 100)
    assert served.held["a"] == 8


@pytest.mark.parametrize("spare", [True, False])
def test_a_crowd_is_passed_by_who_asks_for_one(spare: bool) -> None:
    served = Served(16, spare=spare)
    served.ask("crowd", CROWD)
    before = len(served.order)
    served.ask("other")
    while "other" not in served.order:
        served.done("crowd")
    assert len(served.order) - before <= 2


def test_what_has_begun_goes_before_what_has_not() -> None:
    served = Served(2, spare=True)
    served.ask("a", 3)
    served.ask("a", first=True, name="goes on")
    served.done("a")
    assert served.order == ["a", "goes on"]


NAMESPACES = st.sampled_from(["", "a", "b", "c", "d"])


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 20),
    spare=st.booleans(),
    steps=st.lists(st.tuples(NAMESPACES, st.integers(0, 6), st.booleans()), max_size=60),
)
def test_turns_are_kept_whatever_is_asked(
    width: int, spare: bool, steps: list[tuple[str, int, bool]]
) -> None:
    """Steps are (namespace, how often it asks, whether one of its turns ends afterwards)."""
    served, asked = Served(width, spare=spare), Counter[str]()
    for namespace, times, ends in steps:
        served.ask(namespace, times)
        asked[namespace] += times
        if ends and served.held[namespace]:
            served.done(namespace)
        _check(served, width, asked)
    while len(served.turns):
        served.done(next(iter(+served.held)))
        _check(served, width, asked)
    assert Counter(served.order) == +asked


def _check(served: Served, width: int, asked: Counter[str]) -> None:
    assert served.held.total() <= width
    waiting = asked - Counter(served.order)
    assert len(served.turns) == waiting.total()
    if waiting:
        assert served.held.total(), "somebody waits for nobody"
    if set(waiting) - set(+served.held):
        assert served.held.total() == width, "there is a turn, and who has none doesn't get it"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(2, 6), st.integers(1, 40))
def test_each_gets_as_many_as_the_others(width: int, namespaces: int, rounds: int) -> None:
    served = Served(width, spare=False)
    names = [f"n{at}" for at in range(namespaces)]
    # While none is served.
    served.turns.open(0)
    for name in names:
        served.ask(name, rounds)
    served.turns.open(width)
    while len(served.turns):
        counts = Counter(served.order)
        assert max(counts.values()) - min(counts[name] for name in names) <= 1
        served.done(next(iter(+served.held)))

"""What the loop asks of a kind.

Four methods are required. The others have an answer that suits a kind which remembers nothing,
asks no tracker and has no progress to follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.decide.decision import Decision, Question
from kubetune.decide.resources import Resource
from kubetune.queue import Key

Observed = TypeVar("Observed")
Kept = TypeVar("Kept")


class Controller(ABC, Generic[Observed, Kept]):
    """Observes the objects of its kinds and decides what follows.

    ``Observed`` is a value with all that the rules need to know. ``Kept`` is what one round
    leaves to the next, and one reconcile to the next: in memory, and found again when lost.
    """

    kinds: ClassVar[frozenset[str]]

    @abstractmethod
    async def observe(self, resource: Resource[Any, Any], kept: Kept) -> Observed:
        """The object and everything around it."""

    @abstractmethod
    def decide(self, observed: Observed, now: datetime) -> Decision[Any]:
        """What follows; a pure rule."""

    @abstractmethod
    def place(self, observed: Observed) -> ComputeTargetSpec | None:
        """Where the object's runs are; None where it has none, or where that isn't known."""

    @abstractmethod
    def begin(self, key: Key, kept: Kept | None) -> Kept:
        """What the first round of a reconcile knows, after what the last one has ``kept``."""

    def is_settled(self, body: JsonObject) -> bool:
        """Whether nothing more has to happen to an object: the cheap way out."""
        return False

    async def ask(self, observed: Observed, kept: Kept, questions: Sequence[Question]) -> Kept:
        """Put questions to the object's tracker; what is known with the answers."""
        if questions:
            raise TypeError(f"{sorted(self.kinds)} ask no tracker: {questions[0]}")
        return kept

    def followed_runs(self, observed: Observed) -> AbstractSet[str] | None:
        """Run keys whose progress is read from now on; None leaves it as it is."""
        return frozenset()

    def forget(self, key: Key, body: JsonObject | None) -> None:
        """Drop what is remembered of an object that is settled, or gone when ``body`` is None."""


class Forgetful(Controller[Observed, None]):
    """A controller that keeps nothing in memory."""

    def begin(self, key: Key, kept: None) -> None:
        """Nothing."""

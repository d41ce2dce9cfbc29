"""Mendings that can be taken out again, to show that the explorer finds what they are for.

Each row takes one mechanism out of the operator; ``test_mendings`` expects a counterexample that
violates one of the row's invariants.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Mending:
    """A mechanism, and what holds no more without it."""

    says: str
    """What the mechanism is there for."""
    invariants: tuple[str, ...]
    out: Callable[[], list[Any]]
    """Patches that take it out."""


MENDINGS: dict[str, Mending] = {}


@contextmanager
def taken_out(name: str) -> Generator[None]:
    """Take a mending out; none, when the name is empty."""
    with ExitStack() as stack:
        for change in MENDINGS[name].out() if name else ():
            stack.enter_context(change)
        yield


def replaced(place: Any, attribute: str, value: Any) -> Any:
    """A patch of one attribute."""
    return patch.object(place, attribute, value)

"""The kinds of steps that a schedule may have; ``steps`` and ``faults`` say which there are.

A step is a name with arguments, all drawn beforehand, so that leaving out other steps doesn't
change it. What isn't possible when its time has come doesn't happen.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError

from tests.simulation.world import World


@dataclass(frozen=True)
class Step:
    """Something that happens some seconds after what came before."""

    pause: float
    name: str
    arguments: JsonObject

    def __str__(self) -> str:
        given = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"after {self.pause:g} s {self.name}({given})"


@dataclass(frozen=True)
class StepKind:
    """How often a step is drawn, with which arguments, and what it does."""

    weight: int
    draw: Callable[[random.Random], JsonObject]
    act: Callable[..., None]


STEP_KINDS: dict[str, StepKind] = {}


def step(
    weight: int, draw: Callable[[random.Random], JsonObject]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a kind of step, by its name."""

    def register(act: Callable[..., None]) -> Callable[..., None]:
        STEP_KINDS[act.__name__] = StepKind(weight, draw, act)
        return act

    return register


def perform(world: World, step: Step) -> None:
    """Have a step happen; refusals by the API server are the users' problem."""
    act = STEP_KINDS[step.name].act
    said = (act.__doc__ or "").partition("\n")[0]
    world.tell("STEP", f"{step}   # {said}" if said else str(step))
    try:
        act(world, **step.arguments)
    except ApiError as refused:
        world.tell("users", f"are refused: {refused}")

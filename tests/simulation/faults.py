"""What happens to the operator, and to its connections; and how all of it ends."""

from __future__ import annotations

import contextlib
import random

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError
from kubetune.handlers import WATCHED

from tests.simulation.network import MODES, Trouble
from tests.simulation.schedule import step
from tests.simulation.steps import admit
from tests.simulation.world import World


def _crash(draw: random.Random) -> JsonObject:
    return {"restart": draw.choice((0.5, 5.0, 60.0, 400.0))}


@step(5, _crash)
def crash(world: World, restart: float) -> None:
    world.restart_after = restart
    world.crash()


@step(7, lambda draw: {"skip": draw.choice((0, 0, 1, 1, 2, 3, 4, 5, 7, 9)), **_crash(draw)})
def crash_at_effect(world: World, skip: int, restart: float) -> None:
    """Before or after one of the next effects."""
    world.restart_after = restart
    world.crash_after = skip


@step(6, lambda draw: {"mode": draw.choice(MODES), "skip": draw.choice((0, 0, 0, 1, 1, 2, 3))})
def trouble(world: World, mode: str, skip: int) -> None:
    world.troubles.append(Trouble(mode, skip))
    world.disturb(60.0)


@step(
    4,
    lambda draw: {
        "kind": draw.choice(("Job", "Job", "Pod", "FineTuneJob", *WATCHED)),
        "seconds": draw.choice((1.0, 10.0, 60.0, 200.0)),
        "forget": draw.random() < 0.5,
    },
)
def hold_watch(world: World, kind: str, seconds: float, forget: bool) -> None:
    """A watch is silent for a while, or breaks and is listed anew."""
    if world.operator:
        _blind(world, seconds)
        world.operator.watches[kind].hold(seconds, forget=forget)


@step(3, lambda draw: {"seconds": draw.choice((5.0, 40.0, 200.0)), "forget": draw.random() < 0.7})
def cut_off(world: World, seconds: float, forget: bool) -> None:
    """The operator and the API server lose each other."""
    world.cut_off = True
    _blind(world, seconds)
    for watch in world.operator.watches.values() if world.operator else ():
        watch.hold(seconds, forget=forget)

    def back() -> None:
        world.cut_off = False

    world.later(seconds, back)


def _blind(world: World, seconds: float) -> None:
    world.disturb(seconds)
    world.blind_until = max(world.blind_until, world.now_seconds() + seconds)


@step(
    6,
    lambda draw: {
        "how": draw.choice(("away", "away", "slow", "refusing", "lossy")),
        "seconds": draw.choice((5.0, 60.0, 200.0, 600.0)),
    },
)
def tracker(world: World, how: str, seconds: float) -> None:
    world.tracker.trouble = how

    def heal() -> None:
        world.tracker.trouble = ""

    world.later(seconds, heal)


def heal(world: World) -> None:
    """No more faults; what was ended starts again."""
    world.tell("STEP", "everything heals")
    world.troubles.clear()
    world.crash_after = None
    world.restart_after = 0.5
    world.refusals.clear()
    world.tracker.trouble = world.cml.trouble = ""
    world.cml.behind_seconds = 0.0
    with contextlib.suppress(ApiError):
        admit(world)
    world.start_operator()

"""How a schedule is drawn."""

from __future__ import annotations

import random
from collections.abc import Sequence

# Both for the kinds of steps that they have.
from tests.simulation import faults as faults
from tests.simulation import steps
from tests.simulation.schedule import STEP_KINDS, Step

PAUSES = (0.0, 0.05, 0.3, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
REINSTALLED = 0.05
"""Of so many schedules a CRD goes and comes back; one takes minutes, and much with it."""
FIRST, RARE = steps.create_job.__name__, steps.reinstall.__name__


def draw_schedule(seed: int, among: Sequence[str] = ()) -> list[Step]:
    """The steps of a seed, of these kinds or of all. The first one makes a job."""
    draw = random.Random(f"schedule {seed}")
    kinds = list(among) or [kind for kind in STEP_KINDS if kind != RARE]
    weights = [STEP_KINDS[kind].weight for kind in kinds]
    chosen = [FIRST, *draw.choices(kinds, weights, k=draw.randint(2, 9))]
    drawn = [_step(draw, kind) for kind in chosen]
    if draw.random() < REINSTALLED and not among:
        again = _step(draw, RARE)
        drawn.insert(draw.randint(1, len(drawn)), again)
    return drawn


def _step(draw: random.Random, kind: str) -> Step:
    return Step(draw.choice(PAUSES), kind, STEP_KINDS[kind].draw(draw))

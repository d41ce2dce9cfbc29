"""Each mending that is taken out again is missed: a schedule shows what it was for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.hunting import find, processes
from tests.simulation.mendings import MENDINGS

SEEDS = 1000
"""At most so many schedules, before the row counts as not found."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes for all rows."""
    with processes() as started:
        yield started


@pytest.mark.parametrize("name", MENDINGS)
def test_a_mending_that_is_taken_out_is_missed(name: str, pool: ProcessPoolExecutor) -> None:
    mending = MENDINGS[name]
    seeds = range(mending.seed, mending.seed + SEEDS)

    found = find(pool, seeds, mending.invariants, without=name)

    assert found is not None, mending.says
    assert len(found.story) > len(found.steps)

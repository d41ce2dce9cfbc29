"""Many schedules, and no invariant is violated.

Two free cores carry them out in less than a minute; on a machine that is busier fewer are carried
out, and the test ends within two minutes all the same. ``make chaos`` carries out a million.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.hunting import hunt, processes, tell

SCHEDULES = int(os.environ.get("KUBETUNE_SCHEDULES", "4000"))
MAX_SECONDS = 115.0


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Processes for all tests here."""
    with processes() as started:
        yield started


def test_invariants_hold_in_many_schedules(pool: ProcessPoolExecutor) -> None:
    found = hunt(pool, 0, SCHEDULES, seconds=MAX_SECONDS)
    print(f"{found.schedules} schedules")

    if found.failed:
        seed = min(found.failed)
        result = tell(pool, seed, None, shorter=True)
        story = "\n".join([*result.story, *map(str, result.violations)])
        raise AssertionError(f"python -m tests.simulation --seed {seed}\n{story}")


def test_a_seed_tells_the_same_story_again(pool: ProcessPoolExecutor) -> None:
    once = tell(pool, 17, None, shorter=False)
    with processes(1) as other:
        again = tell(other, 17, None, shorter=False)

    assert once.story == again.story
    assert len(once.story) > 10

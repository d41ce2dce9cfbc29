"""Each mending that is taken out again is missed: a schedule shows what it was for."""

from __future__ import annotations

import pytest

from tests.simulation.hunting import find
from tests.simulation.mendings import MENDINGS

SEEDS = range(4000)


@pytest.mark.parametrize("name", MENDINGS)
def test_a_mending_that_is_taken_out_is_missed(name: str) -> None:
    found = find(SEEDS, MENDINGS[name].invariants, without=name)

    assert found is not None, MENDINGS[name].says
    assert len(found.story) > len(found.steps)

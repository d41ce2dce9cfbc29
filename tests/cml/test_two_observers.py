"""What another operator has started is asked for before it counts as gone."""

from dataclasses import replace

import pytest
from kubetune_devcluster.cml.server import Simulator

from tests.cml.lives import RUNNING, SCHEDULING, staying
from tests.cml.test_hostile_answers import running, site

pytestmark = pytest.mark.usefixtures("cmlapi_path")


async def test_a_run_that_a_twin_has_started_is_seen(simulator: Simulator) -> None:
    async with site(simulator) as ours, site(simulator) as theirs:
        assert await ours.backend.observe(ours.address) == []
        (state,) = await theirs.until(running)
        # The status of the object, which both read, names it by now.
        known = replace(ours.address, running=(state.name,))
        assert running(await ours.backend.observe(known))


async def test_a_run_that_no_list_shows_yet_is_asked_for(simulator: Simulator) -> None:
    """As when an operator ends right after it has started a run and noted it."""
    async with site(simulator) as ours, site(simulator) as theirs:
        (state,) = await theirs.until(running)
        simulator.behaviour.visible_after = 3600
        known = replace(ours.address, running=(state.name,), job_id=state.external["jobId"])
        assert running(await ours.backend.observe(known))


async def test_a_run_that_was_deleted_is_gone(simulator: Simulator) -> None:
    async with site(simulator) as ours, site(simulator) as theirs:
        (state,) = await theirs.until(running)
        known = replace(ours.address, running=(state.name,), job_id=state.external["jobId"])
        simulator.delete_job_by_hand(state.external["jobId"])
        assert await ours.backend.observe(known) == []


@pytest.mark.parametrize("begun", [False, True])
async def test_only_a_run_that_waits_for_room_is_taken_back(
    simulator: Simulator, begun: bool
) -> None:
    """By what the workspace says now: whoever followed it last saw it wait."""
    simulator.script_for = lambda *_: staying(SCHEDULING)
    async with site(simulator) as at:
        (state,) = await at.until(lambda states: [s.phase for s in states] == ["pending"])
        (run,) = simulator.runs(state.external["jobId"])
        if begun:
            run.script = staying(RUNNING)
        await at.backend.stop(at.address, unbegun=True)
        assert (run.stop_asked is None) == begun

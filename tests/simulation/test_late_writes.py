"""A write that arrives after the operator has given up on its answer changes nothing any more."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation import manifests
from tests.simulation.manifests import TEAM
from tests.simulation.network import Trouble
from tests.simulation.prepared import prepared
from tests.simulation.runs import Script
from tests.simulation.world import World


def test_a_late_write_of_a_status_does_not_turn_a_verdict_back() -> None:
    story: list[str] = []
    world = prepared(1, story)
    try:
        world.scripts = [Script(10.0, "succeed")]
        world.start_operator()
        world.server.create(manifests.job("tune"))
        _pass_until(world, lambda: bool(world.server.of_kind("Pod")))
        # That the run is under way: the network holds it longer than the run takes.
        world.troubles = [Trouble("late", 0)]
        _pass_until(world, lambda: any("now arrives" in line for line in story))
        world.run_for(60.0)

        assert any("and is refused" in line for line in story), story
        assert world.server.get("FineTuneJob", TEAM, "tune")["status"]["phase"] == "Succeeded"
        assert not world.ledger.violations
    finally:
        world.close()


def _pass_until(world: World, question: Callable[[], bool]) -> None:
    for _ in range(3000):
        if question():
            return
        world.run_for(0.1)
    raise AssertionError("it never comes so far")

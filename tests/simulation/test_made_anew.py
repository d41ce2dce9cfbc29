"""An object that takes the name of another, before the operator has seen that one go."""

from __future__ import annotations

from tests.simulation import manifests
from tests.simulation.manifests import TEAM
from tests.simulation.prepared import prepared
from tests.simulation.runs import Script
from tests.simulation.world import World


def test_what_is_known_of_a_job_is_not_taken_for_that_of_the_next() -> None:
    """Its result would count as registered already, and be lost."""
    world = prepared(1)
    try:
        world.scripts = [Script(20.0, "succeed"), Script(20.0, "succeed")]
        world.start_operator()
        for versions in (1, 2):
            world.server.create(manifests.job("tune", output={"registry": {}}))
            if versions == 2:
                # The lineage is the same: without this the version would be adopted.
                world.tracker.versions["team_tune"][0].tags.clear()
            world.run_for(120.0)
            assert len(world.tracker.versions["team_tune"]) == versions
            assert _registered(world) == versions
            if versions == 1:
                _delete(world)
    finally:
        world.close()


def _delete(world: World) -> None:
    """Delete the job; the watch tells of it no earlier than of the next."""
    world.server.delete("FineTuneJob", TEAM, "tune")
    while world.server.find("FineTuneJob", TEAM, "tune"):
        world.run_for(0.002)
    assert world.operator
    world.operator.watches["FineTuneJob"].hold(1.0, forget=True)


def _registered(world: World) -> int:
    job = world.server.get("FineTuneJob", TEAM, "tune")
    return int(job["status"]["result"]["registered"]["version"])

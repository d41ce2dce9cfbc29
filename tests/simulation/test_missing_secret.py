"""A Secret that is deleted although runs in CML need it: nothing is lost, and little is asked."""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import timedelta

import pytest
from kubetune.api import JsonObject
from kubetune.decide.retries import until_secret

from tests.simulation import manifests
from tests.simulation.invariants import MAX_QUIET_REQUESTS, ready_of
from tests.simulation.manifests import TEAM
from tests.simulation.prepared import prepared
from tests.simulation.runs import Script
from tests.simulation.world import World


@pytest.fixture
def world() -> Generator[World]:
    world = prepared(1, [])
    world.scripts = [Script(400.0, "succeed")]
    world.start_operator()
    world.server.create(manifests.job("tune", computeTargetRef={"name": "cloud"}))
    yield world
    world.close()


def test_no_run_starts_that_nobody_could_stop(world: World) -> None:
    # The target is held already, and the key goes in between.
    _pass_until(world, lambda: _told(world, "PATCH ComputeTarget cloud finalizers"), every=0.002)
    world.server.delete("Secret", TEAM, "cml-key")
    world.run_for(90.0)

    assert not world.cml.jobs, "it would have to run on until somebody makes the Secret again"
    assert "waiting for Secret cml-key" in ready_of(_job(world))["message"]

    world.server.create(manifests.secret())
    _pass_until(world, lambda: _job(world)["status"]["phase"] == "Succeeded", every=10.0)


def test_a_run_goes_on_whose_secret_was_taken_by_force(world: World) -> None:
    _pass_until(world, lambda: _job(world).get("status", {}).get("phase") == "Running", every=1.0)
    world.server.remove(world.server.get("Secret", TEAM, "cml-key"))
    world.run_for(700.0)
    assert ready_of(_job(world))["reason"] == "CredentialsInvalid"
    before, writes = world.ledger.requests, world.ledger.writes
    world.run_for(600.0)

    assert world.ledger.requests - before <= MAX_QUIET_REQUESTS
    assert world.ledger.writes == writes

    world.server.create(manifests.secret())
    _pass_until(world, lambda: _job(world)["status"]["phase"] == "Succeeded", every=10.0)
    assert len(world.ledger.runs) == 1


def test_each_target_asks_for_its_secret_once_a_look(world: World) -> None:
    world.server.delete("FineTuneJob", TEAM, "tune")
    for name in ("cloud-2", "cloud-3"):
        world.server.create(manifests.cloud(name))
    world.run_for(60.0)
    world.server.delete("Secret", TEAM, "cml-key")
    world.run_for(700.0)
    before = world.ledger.requests
    world.run_for(600.0)

    now = world.loop.now()
    looks = 600 / until_secret(now - timedelta(days=1), now)
    assert world.ledger.requests - before <= 3 * looks + MAX_QUIET_REQUESTS / 4


def test_nothing_is_held_for_a_job_that_is_suspended(world: World) -> None:
    _pass_until(world, lambda: _job(world).get("status", {}).get("phase") == "Running", every=1.0)
    world.server.patch("FineTuneJob", TEAM, "tune", {"spec": {"suspend": True}})
    for kind, name in (("ComputeTarget", "cloud"), ("Secret", "cml-key")):
        world.server.delete(kind, TEAM, name)
        assert world.server.find(kind, TEAM, name), "its run has not ended"
    _pass_until(world, lambda: _job(world)["status"]["phase"] == "Suspended", every=1.0)
    world.run_for(60.0)
    assert not world.server.find("ComputeTarget", TEAM, "cloud")
    assert not world.server.find("Secret", TEAM, "cml-key")

    world.server.patch("FineTuneJob", TEAM, "tune", {"spec": {"suspend": False}})
    world.run_for(60.0)
    assert ready_of(_job(world))["reason"] == "CredentialsInvalid", "nobody knows what runs there"

    world.server.create(manifests.secret())
    world.server.create(manifests.cloud())
    _pass_until(world, lambda: _job(world)["status"]["phase"] == "Succeeded", every=10.0)
    assert not world.ledger.violations


def _job(world: World) -> JsonObject:
    return world.server.get("FineTuneJob", TEAM, "tune")


def _told(world: World, what: str) -> bool:
    return any(what in line for line in world.story or ())


def _pass_until(world: World, question: Callable[[], bool], *, every: float) -> None:
    for _ in range(3000):
        if question():
            return
        world.run_for(every)
    raise AssertionError("it never comes so far")

"""The operator ends at any effect of a run's start or end in CML, and then the namespace goes.

Target and Secret go with it as soon as nobody holds them: who would still need them afterwards, to
see that no run is under way, would be stuck.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kubetune.api import JsonObject

from tests.simulation import manifests
from tests.simulation.manifests import TEAM
from tests.simulation.prepared import prepared
from tests.simulation.runs import Script
from tests.simulation.world import World

MOST_EFFECTS = 60
"""Of the end of a run: more than there are."""
HELD = (("ComputeTarget", "cloud"), ("Secret", "cml-key"), ("Secret", "other-key"))
GOES = ("work", "cloud", "cml-key")
IN_CML: JsonObject = {"computeTargetRef": {"name": "cloud"}}


def _job(end: str, **spec: Any) -> Callable[[World], None]:
    def make(world: World) -> None:
        world.scripts = [Script(20.0, end)]
        world.server.create(manifests.job("work", **IN_CML, **spec))

    return make


def _evaluation(world: World) -> None:
    world.scripts = [Script(20.0, "succeed")]
    world.server.create(manifests.evaluation("work", **IN_CML))


def _nothing(world: World) -> None:
    """The run ends by itself."""


def _suspend(world: World) -> None:
    world.server.patch(_kind(world), TEAM, "work", {"spec": {"suspend": True}})


def _delete(world: World) -> None:
    world.server.delete(_kind(world), TEAM, "work")


def _take(world: World) -> None:
    """Deleted, and its finalizer taken away, as a replacement does."""
    kind = _kind(world)
    world.server.delete(kind, TEAM, "work")
    world.server.patch(kind, TEAM, "work", {"metadata": {"finalizers": None}})


def _kind(world: World) -> str:
    kinds = ("FineTuneJob", "Evaluation")
    return next(kind for kind in kinds if world.server.find(kind, TEAM, "work"))


@pytest.mark.parametrize("change", [_nothing, _suspend, _delete])
@pytest.mark.parametrize(
    "begin",
    [_job("succeed", output={"registry": {}}), _job("refuse"), _evaluation],
    ids=["succeeds", "fails", "evaluation"],
)
def test_a_namespace_goes_whenever_the_operator_ended(
    begin: Callable[[World], None], change: Callable[[World], None]
) -> None:
    def check(world: World) -> None:
        world.server.delete("Namespace", "", TEAM)
        world.run_for(60.0)
        world.start_operator()
        world.run_for(600.0)
        assert not [key for key in world.server.objects if key[1] == TEAM]

    _at_each_effect(begin, change, check)


@pytest.mark.parametrize("how", ["namespace", "job"])
@pytest.mark.parametrize(
    "begin",
    [_job("succeed", output={"registry": {}}), _job("succeed"), _evaluation],
    ids=["registers", "job", "evaluation"],
)
def test_what_goes_with_its_secret_goes_whenever_the_operator_ended_at_a_start(
    begin: Callable[[World], None], how: str
) -> None:
    def check(world: World) -> None:
        if how == "namespace":
            world.server.delete("Namespace", "", TEAM)
        else:
            for kind, name in (*HELD[:2], (_kind(world), "work")):
                world.server.delete(kind, TEAM, name)
        world.run_for(60.0)
        world.start_operator()
        world.run_for(600.0)
        assert not [key for key in world.server.objects if key[1] == TEAM and key[2] in GOES]

    _at_each_effect(_nothing, begin, check, seconds=15.0)


@pytest.mark.parametrize("change", [_nothing, _suspend, _delete])
@pytest.mark.parametrize("begin", [_job("refuse"), _evaluation], ids=["job", "evaluation"])
def test_nothing_stays_held_whenever_the_operator_ended(
    begin: Callable[[World], None], change: Callable[[World], None]
) -> None:
    def rotate(world: World) -> None:
        """From now on only the record of the run names the Secret that it was started with."""
        world.server.create(_other_secret())
        spec = {"cml": {"apiKeySecretRef": {"name": "other-key"}}}
        world.server.patch("ComputeTarget", TEAM, "cloud", {"spec": spec})
        world.run_for(5.0)
        change(world)

    def check(world: World) -> None:
        world.start_operator()
        world.run_for(60.0)
        for kind, name in HELD:
            world.server.delete(kind, TEAM, name)
        world.run_for(600.0)
        assert not [name for kind, name in HELD if world.server.find(kind, TEAM, name)]

    _at_each_effect(begin, rotate, check)


@pytest.mark.parametrize("begin", [_job("succeed"), _evaluation], ids=["job", "evaluation"])
def test_nothing_stays_held_for_who_was_taken_by_force(begin: Callable[[World], None]) -> None:
    """Only the target tells the next operator what was held for an object that is gone."""

    def check(world: World) -> None:
        world.start_operator()
        world.run_for(60.0)
        for kind, name in HELD[:2]:
            world.server.delete(kind, TEAM, name)
        world.run_for(600.0)
        assert not [name for kind, name in HELD[:2] if world.server.find(kind, TEAM, name)]

    _at_each_effect(begin, _take, check)


def _at_each_effect(
    begin: Callable[[World], None],
    change: Callable[[World], None],
    check: Callable[[World], None],
    seconds: float = 120.0,
) -> None:
    """Have the operator end after no effect of what comes of a change, after one, after two ..."""
    for effects in range(MOST_EFFECTS):
        world = prepared(1)
        try:
            world.start_operator()
            begin(world)
            while begin is not _nothing and not world.ledger.runs:
                world.run_for(0.5)
            world.run_for(5.0)
            world.crash_after = effects
            change(world)
            world.run_for(seconds)
            ended = world.operator is None
            world.crash_after = None
            check(world)
            assert not world.ledger.violations
        except AssertionError as error:
            error.add_note(f"after {effects} effects")
            raise
        finally:
            world.close()
        if not ended:
            assert effects > 3
            return
    raise AssertionError("it never comes to rest")


def _other_secret() -> JsonObject:
    there = manifests.secret()
    return there | {"metadata": there["metadata"] | {"name": "other-key"}}

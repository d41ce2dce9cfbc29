"""The world in which every schedule begins: inputs that are Ready, made once by the operator."""

from __future__ import annotations

from functools import cache

from kubetune.api import JsonObject

from tests.simulation import manifests
from tests.simulation.api_server import Key
from tests.simulation.world import World

PREPARING_SECONDS = 120.0
_INPUTS = (manifests.target, manifests.cloud, manifests.dataset, manifests.model)


@cache
def _prepared() -> tuple[int, dict[Key, JsonObject]]:
    world = World(0)
    for name in (manifests.TEAM, manifests.SYSTEM):
        world.server.create(manifests.namespace(name))
    world.start_operator()
    world.server.create(manifests.secret())
    for body in _INPUTS:
        world.server.create(body())
    world.run_for(PREPARING_SECONDS)
    objects = dict(world.server.objects)
    version = world.server.version
    world.close()
    if world.ledger.violations or not all(_is_ready(body) for body in objects.values()):
        raise RuntimeError(f"the inputs don't become Ready: {world.ledger.violations} {objects}")
    return version, objects


def prepared(seed: int, story: list[str] | None = None) -> World:
    """A fresh world in which target, Dataset and Model are Ready, without an operator."""
    version, objects = _prepared()
    world = World(seed, story=story)
    world.loop.pass_by(PREPARING_SECONDS)
    world.server.version = version
    for key, body in objects.items():
        world.server.objects[key] = body
        world.server.uids[body["metadata"]["uid"]] = key
        for owner in body["metadata"].get("ownerReferences") or ():
            world.server.children[owner["uid"]][key] = None
    return world


def _is_ready(body: JsonObject) -> bool:
    if body["kind"] in ("Namespace", "Secret"):
        return True
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

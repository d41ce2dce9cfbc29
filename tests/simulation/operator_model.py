"""The operator as a process of the model: started, crashed at any moment, started again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from kubetune.act.left_behind import taken_over
from kubetune.api import JsonObject
from kubetune.assembly import assemble
from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.connections import Connections
from kubetune.clients.egress import OPEN
from kubetune.clients.kubernetes import ApiError
from kubetune.handlers import WATCHED, Feed
from kubetune.keys import Keyring
from kubetune.observe.cache import ObjectCache
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key, WorkQueue
from kubetune.settings import Settings
from kubetune.targets.errors import BackendError
from kubetune.targets.making import Parts, backends
from kubetune.targets.values import Owner
from kubetune.tracking.sources import sources

from tests.simulation.cml_workspace import ModelCmlClients
from tests.simulation.network import ModelClient
from tests.simulation.tracker import ModelPool, ModelTracker
from tests.simulation.watches import Watch

if TYPE_CHECKING:
    from tests.simulation.world import World


INSTALL_ID = "install"
KEYS = Keyring((("1", b"a" * 32),))
SETTINGS = Settings(
    install_id=INSTALL_ID,
    operator_namespace="system",
    workers=4,
    # Rarely: what comes of polls is the same, and each one costs.
    tracking_poll_seconds=30.0,
    progress_write_seconds=60.0,
    # At least once in the time before what is quiet is looked at.
    target_probe_seconds=500.0,
)
EXPECTED = (ApiError, aiohttp.ClientError, TimeoutError, BackendError)
"""What a reconcile may raise: the world's faults, not its own."""


class OperatorProcess:
    """One life of the operator, put together as kubetune.operate does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cache, queue = ObjectCache(), WorkQueue()
        client = ModelClient(world)
        connections = Connections(client, cast("CmlClients", ModelCmlClients(world)), OPEN)

        def notify(owner: Owner) -> None:
            queue.add(Key(owner.kind, owner.namespace, owner.name))

        ended = partial(taken_over, client)
        parts = Parts(connections, self.cache, SETTINGS, KEYS, notify, ended, world.loop.time)
        pool = cast("Any", ModelPool(ModelTracker(world.tracker)))
        self._assembly = assemble(
            self.cache,
            client,
            backends(parts),
            Trackers(sources(connections, pool)),
            queue,
            SETTINGS,
            KEYS,
            INSTALL_ID,
            world.loop.now,
        )
        self.feed = Feed(self.cache, queue)
        self._queue = queue
        self.watches = {kind: Watch(world, self.feed, kind) for kind in WATCHED}
        world.server.observers.append(self._seen)
        world.definitions.observers.append(self._unserved)
        for watch in self.watches.values():
            watch.list_anew()
        self._tasks = [
            world.loop.create_task(self._work()),
            world.loop.create_task(self._assembly.poller.run()),
        ]

    def kill(self) -> None:
        """It ends at once, wherever it is."""
        for watch in self.watches.values():
            watch.close()
        self._world.server.observers.remove(self._seen)
        self._world.definitions.observers.remove(self._unserved)
        for task in self._tasks:
            task.cancel()

    def _seen(self, event: str, body: JsonObject, old: JsonObject | None) -> None:
        watch = self.watches.get(body["kind"])
        if watch:
            watch.seen(event, body, old)

    def _unserved(self, kind: str) -> None:
        self.watches[kind].unserved()

    async def _work(self) -> None:
        await self.feed.watches.complete.wait()
        self._assembly.needs.restore()
        await self._queue.run(self._reconcile, SETTINGS.workers)

    async def _reconcile(self, key: Key) -> None:
        self._world.ledger.reconciles += 1
        try:
            await self._assembly.reconciler(key)
        except EXPECTED as error:
            self._world.tell("operator", f"{key.kind} {key.name} can't be reconciled: {error!r}")
            raise
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._world.ledger.violated("no reconcile fails by itself", f"{key}: {error!r}")
            raise

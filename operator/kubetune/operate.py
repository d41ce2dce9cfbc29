"""Puts the parts together and runs them until a signal ends the operator."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import kopf

from kubetune.act.left_behind import taken_over
from kubetune.assembly import Assembly, assemble
from kubetune.clients.connections import connect
from kubetune.clients.kubernetes import KubernetesClient
from kubetune.clients.lease import Identity, Lease, NoLease
from kubetune.clients.stored_keys import stored_keys
from kubetune.handlers import WATCHED, Feed, build_registry, build_settings
from kubetune.health import Bounds, Health
from kubetune.keys import Keyring
from kubetune.metrics import LEADS, OBJECTS, QUEUE_LENGTH, QUEUE_OLDEST, WAITING_OUTSIDE
from kubetune.observe.cache import ObjectCache
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key, WorkQueue
from kubetune.settings import Settings
from kubetune.targets.making import Parts, backends
from kubetune.targets.values import Owner
from kubetune.tracking.pool import TrackerPool
from kubetune.tracking.sources import sources

logger = logging.getLogger(__name__)

COLLECT_LATER = 10_000, 20
"""Bodies keep the collector busy for nothing: they have no cycles, reference counts free them."""


async def operate(
    settings: Settings, *, health_address: str, health_port: int, namespaces: Sequence[str] = ()
) -> None:
    """Run the operator until SIGTERM or SIGINT, which kopf handles.

    Only while it holds the lease it changes anything; until then it watches, to be ready.
    Raises kopf.LoginError without credentials, ApiError when the cluster can't be read, KeysError
    without a usable key, LeaseError when the lease can't be used, LeaseTakenError when another
    operator has taken it.
    """
    lease = _lease(settings)
    connections = connect(settings, lease.held)
    client = connections.cluster
    try:
        install_id = settings.install_id or await _install_id(client)
        keys = await _keys(settings)
    except BaseException:
        await connections.close()
        raise
    cache, queue = ObjectCache(), WorkQueue()
    pool = TrackerPool(settings.tracking_timeout_seconds, connections.egress, lease.held)

    def notify(owner: Owner) -> None:
        queue.add(Key(owner.kind, owner.namespace, owner.name))

    def begin() -> Assembly:
        parts = Parts(connections, cache, settings, keys, notify, partial(taken_over, client))
        targets, trackers = backends(parts), Trackers(sources(connections, pool))
        return assemble(cache, client, targets, trackers, queue, settings, keys, install_id)

    feed = Feed(cache, queue, namespaces)
    QUEUE_LENGTH.set_function(lambda: len(queue))
    QUEUE_OLDEST.set_function(lambda: (queue.oldest() or (None, 0.0))[1])
    WAITING_OUTSIDE.set_function(lambda: queue.outside)
    LEADS.set_function(lease.held)
    for kind in WATCHED:
        OBJECTS.labels(kind).set_function(partial(cache.count, kind))
    stop, ready, leads = asyncio.Event(), asyncio.Event(), asyncio.Event()
    assembly: Assembly | None = None
    silence = settings.watch_silence_seconds
    bounds = Bounds(silence=3 * silence, wait=settings.queue_wait_seconds)
    health = Health(feed.watches, queue, client, bounds, ready)
    server = await health.serve(health_address, health_port) if health_port else None

    async def work() -> None:
        nonlocal assembly
        await feed.watches.complete.wait()
        await lease.acquire()
        assembly = begin()
        assembly.needs.restore()
        leads.set()
        logger.info("everything is listed; %d objects to look at", len(queue))
        # Modules and listed objects stay: the collector need not walk them again and again.
        gc.freeze()
        gc.set_threshold(*COLLECT_LATER)
        await queue.run(assembly.reconciler, settings.workers)

    async def poll() -> None:
        await leads.wait()
        if assembly:
            await assembly.poller.run()

    async def keep_lease() -> None:
        await leads.wait()
        await lease.keep()

    workers = [asyncio.create_task(part()) for part in (work, poll, keep_lease)]
    for worker in workers:
        worker.add_done_callback(lambda _: stop.set())
    registry = build_registry(feed)

    results: list[object] = []

    async def end() -> None:
        if results:
            return
        for worker in workers:
            worker.cancel()
        results.extend(await asyncio.gather(*workers, return_exceptions=True))
        await lease.close()
        if server:
            await server.cleanup()
        if assembly:
            await assembly.backend.close()
        await pool.close()
        await connections.close()

    @kopf.on.cleanup(registry=registry)
    async def stop_working(**_: Any) -> None:
        # kopf takes tasks that are not its own for hung handlers and waits 5 s for them, in which
        # another operator could have gone on.
        await end()

    try:
        await kopf.operator(
            registry=registry,
            settings=build_settings(silence),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=list(namespaces),
            stop_flag=stop,
            ready_flag=ready,
        )
    finally:
        # kopf doesn't call its handler when it can't begin.
        await end()
    for result in results:
        if isinstance(result, Exception):
            raise result


def _lease(settings: Settings) -> Lease | NoLease:
    if not settings.lease_seconds:
        return NoLease()
    # Over connections of its own: it may write while it isn't held, and waits for nobody.
    client = KubernetesClient.connect()
    return Lease(client, settings.operator_namespace, settings.lease_seconds, Identity.own())


async def _keys(settings: Settings) -> Keyring:
    # Whoever is first makes them, before anybody leads.
    client = KubernetesClient.connect()
    try:
        return await stored_keys(client, settings.operator_namespace)
    finally:
        await client.close()


async def _install_id(client: KubernetesClient) -> str:
    """The uid of kube-system: as old as the cluster, and nobody deletes it."""
    namespace = await client.get("Namespace", None, "kube-system")
    return str(namespace["metadata"]["uid"])

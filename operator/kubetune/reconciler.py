"""The loop of every kind: observe, decide, carry out, one status write.

``Reconciler`` is what the work queue calls. Rounds repeat within one reconcile while something
new is known, so what follows from it needs neither a second event nor a second write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from kubetune.act.carry_out import RefusedError, carry_out
from kubetune.act.effects import Effects
from kubetune.act.gone_owners import GoneOwners
from kubetune.act.needs import Needs
from kubetune.act.status import StatusWriter
from kubetune.api import JsonObject
from kubetune.api.kinds.status_types import status_of
from kubetune.clients.kubernetes import REFUSALS, ConflictError, KubernetesClient, NotFoundError
from kubetune.clients.permission import NotLeadingError
from kubetune.controllers import Controller, Controllers
from kubetune.decide.decision import Decision
from kubetune.metrics import RECONCILE_SECONDS, RECONCILES
from kubetune.observe.cache import ObjectCache
from kubetune.observe.following import FollowedRuns
from kubetune.observe.objects import parse
from kubetune.queue import Key, WorkQueue

logger = logging.getLogger(__name__)

MAX_ROUNDS = 6


class Reconciler:
    """Reconciles one object at a time."""

    def __init__(
        self,
        cache: ObjectCache,
        client: KubernetesClient,
        queue: WorkQueue,
        controllers: Controllers,
        effects: Effects,
        status: StatusWriter,
        needs: Needs,
        followed: FollowedRuns,
        gone_owners: GoneOwners,
        clock: Callable[[], datetime],
    ) -> None:
        self._cache = cache
        self._client = client
        self._queue = queue
        self._controllers = controllers
        self._effects = effects
        self._status = status
        self._needs = needs
        self._followed = followed
        self._gone_owners = gone_owners
        self._now = clock
        self._kept: dict[Key, tuple[str, Any]] = {}
        """What controllers remember of objects that aren't settled, with the uid of each: another
        object may have taken the name."""

    async def __call__(self, key: Key) -> None:
        """Reconcile one object. Raises what should bring the key back after a delay."""
        controller = self._controllers[key.kind]
        body = self._cache.get(*key)
        if body is None:
            await self._gone_owners.end_runs(key, None)
            await self._needs.holds.leave(key)
            self._forget(key, controller, None)
            self._queue.forget(key)
            return
        if controller.is_settled(body):
            self._forget(key, controller, body)
            await self._needs.let_go(body)
            return
        started = time.perf_counter()
        try:
            await self._gone_owners.end_runs(key, body)
            requeue_after = await self._reconcile(key, controller, body)
        except (NotFoundError, ConflictError) as error:
            # The object, or what we know of it, is out of date.
            RECONCILES.labels(key.kind, "stale").inc()
            logger.info("%s %s/%s is out of date: %s", *key, error)
            if not await self._is_there(key, body):
                return
            raise
        except NotLeadingError as error:
            # What this operator had begun is another's by now; it ends.
            RECONCILES.labels(key.kind, "stale").inc()
            logger.info("%s %s/%s is left to another operator: %s", *key, error)
            raise
        except REFUSALS as error:
            # That of the status itself: nobody else can be told, and it is tried again.
            RECONCILES.labels(key.kind, "refused").inc()
            logger.warning("the cluster refuses the status of %s %s/%s: %s", *key, error)
            raise
        except Exception:
            RECONCILES.labels(key.kind, "error").inc()
            logger.exception("%s %s/%s can't be reconciled", *key)
            raise
        RECONCILES.labels(key.kind, "ok").inc()
        RECONCILE_SECONDS.labels(key.kind).observe(time.perf_counter() - started)
        if requeue_after is not None:
            self._queue.add_after(key, requeue_after)

    async def _reconcile(
        self, key: Key, controller: Controller[Any, Any], body: JsonObject
    ) -> float | None:
        try:
            status, requeue_after = await self._rounds(key, controller, body)
        except RefusedError as refused:
            status, requeue_after = refused.status, refused.requeue_after
        await self._needs.hold(self._cache.get(*key) or body, status)
        await self._status.write(key, body["metadata"]["uid"], status)
        await self._needs.let_go(self._cache.get(*key) or body)
        return requeue_after

    async def _rounds(
        self, key: Key, controller: Controller[Any, Any], body: JsonObject
    ) -> tuple[Any, float | None]:
        """What the status says in the end, and seconds until the object is looked at again."""
        status = status_of(body)
        uid = body["metadata"]["uid"]
        known_uid, known = self._kept.get(key, (uid, None))
        kept = controller.begin(key, known if known_uid == uid else None)
        decision: Decision[Any] = Decision()
        observed = None
        for _ in range(MAX_ROUNDS):
            # What an earlier round has written is in the cache by now.
            body = self._cache.get(*key) or body
            observed = await controller.observe(parse(body | {"status": status}), kept)
            decision = controller.decide(observed, self._now())
            status = decision.status if decision.status is not None else status
            place = controller.place(observed)
            changed = await carry_out(self._effects, body, decision, status, place, self._now())
            before = kept
            kept = await controller.ask(observed, kept, decision.questions)
            if not changed and kept == before:
                break
        if kept is not None:
            self._kept[key] = uid, kept
        if observed is not None and (run_keys := controller.followed_runs(observed)) is not None:
            await self._followed.follow(key, controller.place(observed), run_keys)
        return status, decision.requeue_after

    def _forget(self, key: Key, controller: Controller[Any, Any], body: JsonObject | None) -> None:
        self._followed.forget(key)
        self._kept.pop(key, None)
        controller.forget(key, body)

    async def _is_there(self, key: Key, body: JsonObject) -> bool:
        """Don't wait for the watch, which may be down, to learn what became of an object."""
        try:
            self._cache.put(await self._client.get(*key), ours=False)
        except NotFoundError:
            self._cache.drop(body)
            return False
        return True

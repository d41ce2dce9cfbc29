"""The loop of every kind: observe, decide, carry out, one status write.

``Reconciler`` is what the work queue calls. Rounds repeat within one reconcile while something
new is known, so what follows from it needs neither a second event nor a second write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kubetune.act.effects import (
    CleanUpRefusedError,
    Effects,
    OutputRefusedError,
    StartRefusedError,
    refusal,
)
from kubetune.act.left_behind import LeftBehind, claimed_by
from kubetune.act.needs import Needs
from kubetune.act.release import Release
from kubetune.act.status import StatusWriter
from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import status_of
from kubetune.api.kinds.table import RUNNING
from kubetune.clients.kubernetes import (
    REFUSALS,
    ConflictError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.controllers import Controller, Services, controllers
from kubetune.decide.decision import Decision
from kubetune.decide.target.refused import (
    change_refused,
    output_refused,
    start_refused,
    stop_refused,
    without_record,
)
from kubetune.keys import Keyring
from kubetune.metrics import RECONCILE_SECONDS, RECONCILES
from kubetune.observe.cache import ObjectCache
from kubetune.observe.consent import Consents
from kubetune.observe.following import FollowedRuns
from kubetune.observe.objects import parse
from kubetune.observe.trackers import Trackers
from kubetune.queue import Key, WorkQueue
from kubetune.settings import Settings
from kubetune.targets.dispatch import Backends
from kubetune.targets.errors import BackendError
from kubetune.tracking.poller import ProgressPoller

logger = logging.getLogger(__name__)

MAX_ROUNDS = 6
LEFT_RUNS_RETRY_SECONDS = 30.0


def utc_now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


class Reconciler:
    """Reconciles one object at a time."""

    def __init__(
        self,
        cache: ObjectCache,
        client: KubernetesClient,
        backend: Backends,
        trackers: Trackers,
        queue: WorkQueue,
        settings: Settings,
        keys: Keyring,
        install_id: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._now = clock
        self._cache = cache
        self._client = client
        self._backend = backend
        self._queue = queue
        self.needs = Needs(cache, client, queue)
        holds, consents = self.needs.holds, Consents(client)
        release = Release(holds)
        left_behind = LeftBehind(
            cache, client, backend, keys, install_id, settings.settle_seconds, clock
        )
        self._effects = Effects(cache, client, consents, backend, holds, release, left_behind)
        self._status = StatusWriter(cache, client, queue)
        self.poller: ProgressPoller[Key] = ProgressPoller(
            install_id, settings.tracking_poll_seconds, queue.add
        )
        self._followed = FollowedRuns(trackers, self.poller)
        services = Services(
            cache, client, consents, backend, trackers, settings, keys, install_id, clock
        )
        self._controllers = controllers(services, self.poller, holds, release, left_behind)
        self._kept: dict[Key, tuple[str, Any]] = {}
        """What controllers remember of objects that aren't settled, with the uid of each: another
        object may have taken the name."""

    async def __call__(self, key: Key) -> None:
        """Reconcile one object. Raises what should bring the key back after a delay."""
        controller = self._controllers[key.kind]
        body = self._cache.get(*key)
        if body is None:
            await self._end_runs_of_gone(key)
            await self.needs.holds.leave(key)
            self._forget(key, controller, None)
            self._queue.forget(key)
            return
        if controller.is_settled(body):
            self._forget(key, controller, body)
            await self.needs.let_go(body)
            return
        started = time.perf_counter()
        try:
            await self._end_runs_of_gone(key, body)
            requeue_after = await self._reconcile(key, controller, body)
        except (NotFoundError, ConflictError) as error:
            # The object, or what we know of it, is out of date.
            RECONCILES.labels(key.kind, "stale").inc()
            logger.info("%s %s/%s is out of date: %s", *key, error)
            if not await self._is_there(key, body):
                return
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
        except _RefusedError as refused:
            status, requeue_after = refused.status, refused.requeue_after
        await self.needs.hold(self._cache.get(*key) or body, status)
        await self._status.write(key, body["metadata"]["uid"], status)
        await self.needs.let_go(self._cache.get(*key) or body)
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
            changed = await self._carry_out(body, decision, status, controller.place(observed))
            before = kept
            kept = await controller.ask(observed, kept, decision.questions)
            if not changed and kept == before:
                break
        if kept is not None:
            self._kept[key] = uid, kept
        if observed is not None and (run_keys := controller.followed_runs(observed)) is not None:
            await self._followed.follow(key, controller.place(observed), run_keys)
        return status, decision.requeue_after

    async def _carry_out(
        self,
        body: JsonObject,
        decision: Decision[Any],
        status: Any,
        place: ComputeTargetSpec | None,
    ) -> bool:
        """Whether something is new. Raises _RefusedError."""
        generation, now = body["metadata"]["generation"], self._now()
        before = status_of(body)
        try:
            return await self._effects.run(body, decision.effects, status, place)
        except StartRefusedError as refused:
            if not refused.recorded:
                status = without_record(status, before)
            told = start_refused(status, refused.error, generation, now)
            raise _RefusedError(*told) from refused
        except CleanUpRefusedError as refused:
            # What a deleted object would have said in the end isn't true yet.
            so_far = before if "deletionTimestamp" in body["metadata"] else status
            told = stop_refused(so_far, refused.error, generation, now)
            raise _RefusedError(*told) from refused
        except OutputRefusedError as refused:
            told = output_refused(status, refused.error, generation, now)
            raise _RefusedError(*told) from refused
        except REFUSALS as refused:
            told = change_refused(status, refusal(body, refused), generation, now)
            raise _RefusedError(*told) from refused
        except BackendError as error:
            raise _RefusedError(*stop_refused(status, error, generation, now)) from error

    async def _end_runs_of_gone(self, key: Key, body: JsonObject | None = None) -> None:
        """End what still runs of objects that had this name and went without their finalizer.

        ``body`` is the one that has the name now, and doesn't wait for it.
        """
        if key.kind not in RUNNING:
            return
        try:
            if body is None:
                await self._backend.delete_for_gone_owner(*key)
            else:
                uid = body["metadata"]["uid"]
                await self._backend.delete_for_gone_owner(*key, uid, claimed_by(body))
        except BackendError as error:
            logger.warning("runs of %s %s/%s, which is gone, remain: %s", *key, error)
            if body is None:
                raise
            self._queue.add_after(key, LEFT_RUNS_RETRY_SECONDS)

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


class _RefusedError(Exception):
    """The target refused an action: what the status says about it."""

    def __init__(self, status: Any, requeue_after: float | None) -> None:
        super().__init__()
        self.status = status
        self.requeue_after = requeue_after

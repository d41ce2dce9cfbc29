"""The loop of every kind: observe, decide, act, one status write.

``Reconciler`` is what the work queue calls. Rounds repeat within one reconcile while actions
bring new facts, so what follows from them needs neither a second event nor a second write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kubetune.act import evaluation as evaluation_actions
from kubetune.act.actions import Actor, OutputRefusedError, StartRefusedError, refusal
from kubetune.act.holds import Holds
from kubetune.act.left_behind import LeftBehind, claimed_by
from kubetune.act.status import status_patch
from kubetune.api.compute_target import ComputeTargetSpec
from kubetune.api.conditions import TERMINAL_PHASES, Phase, Reason
from kubetune.backends.base import FINISHED, Backend, BackendError
from kubetune.clients.kubernetes import (
    REFUSALS,
    ConflictError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.decide import (
    compute_target,
    dataset,
    evaluation,
    fine_tune_job,
    model,
    prompt_template,
)
from kubetune.decide.decision import Decision
from kubetune.decide.evaluation_observed import EvaluationLearned, ObservedEvaluation
from kubetune.decide.fine_tune_observed import Learned, ObservedJob
from kubetune.decide.target_refused import (
    change_refused,
    output_refused,
    start_refused,
    stop_refused,
)
from kubetune.metrics import RECONCILE_SECONDS, RECONCILES
from kubetune.names import FINALIZER
from kubetune.observe.cache import ObjectCache, key_of
from kubetune.observe.compute_target import TargetObserver
from kubetune.observe.evaluation import EvaluationObserver
from kubetune.observe.fine_tune_job import FineTuneJobObserver
from kubetune.observe.inspected import InspectedObserver
from kubetune.observe.needs import INSPECTED_KINDS, RUNNING_KINDS, may_run, needs_of
from kubetune.observe.objects import parse
from kubetune.observe.references import TARGET_KINDS
from kubetune.observe.trackers import Trackers
from kubetune.observe.workspaces import Workspaces
from kubetune.queue import Key, WorkQueue
from kubetune.settings import Settings
from kubetune.tracking.base import TrackingError
from kubetune.tracking.poller import ProgressPoller

JsonObject = dict[str, Any]
logger = logging.getLogger(__name__)

MAX_ROUNDS = 6
LEFT_RUNS_RETRY_SECONDS = 30.0
RECONCILED_KINDS = frozenset(
    {
        "Dataset",
        "Model",
        "PromptTemplate",
        "FineTuneJob",
        "Evaluation",
        "ComputeTarget",
        "ClusterComputeTarget",
    }
)


def utc_now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


class Reconciler:
    """Brings one object at a time closer to what its spec says."""

    def __init__(
        self,
        cache: ObjectCache,
        client: KubernetesClient,
        backend: Backend,
        workspaces: Workspaces,
        trackers: Trackers,
        queue: WorkQueue,
        settings: Settings,
        install_id: str,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._now = clock
        self._cache = cache
        self._client = client
        self._trackers = trackers
        self._backend = backend
        self._queue = queue
        self._holds = Holds(client, cache, self._needed)
        self._actor = Actor(cache, client, backend, trackers, self._holds)
        self._targets = TargetObserver(cache, client, workspaces, trackers, settings)
        self._inspected = InspectedObserver(cache, client, backend, install_id)
        self._jobs = FineTuneJobObserver(
            cache, client, backend, install_id, settings.progress_write_seconds, clock()
        )
        self._left_behind = LeftBehind(
            cache, client, backend, install_id, settings.cml_settle_seconds, clock
        )
        self._operator_namespace = settings.operator_namespace
        self.poller: ProgressPoller[Key] = ProgressPoller(
            install_id, settings.tracking_poll_seconds, queue.add
        )
        self._evaluations = EvaluationObserver(
            cache,
            client,
            backend,
            install_id,
            settings.progress_write_seconds,
            self.poller.tracked,
        )
        self._learned: dict[Key, Learned] = {}
        self._watched: dict[Key, set[str]] = {}
        """Run keys that the poller follows."""

    async def __call__(self, key: Key) -> None:
        """Reconcile one object. Raises what should bring the key back after a delay."""
        body = self._cache.get(*key)
        if body is None:
            await self._end_runs_of_gone(key)
            await self._holds.leave(key)
            self._forget(key)
            return
        if key.kind == "FineTuneJob" and _is_over(body):
            self._unwatch(key)
            self._learned.pop(key, None)
            if run_key := (body.get("status") or {}).get("runKey"):
                self._backend.forget(run_key)
            self._jobs.run_keys.forget(key.namespace, key.name)
            await self._let_go(body)
            return
        started = time.perf_counter()
        try:
            await self._end_runs_of_gone(key, body)
            requeue_after = await self._reconcile(key, body)
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

    async def _end_runs_of_gone(self, key: Key, body: JsonObject | None = None) -> None:
        """End what goes on of objects that had this name and went without their finalizer.

        ``body`` is the one that has the name now, and doesn't wait for it.
        """
        if key.kind not in RUNNING_KINDS:
            return
        try:
            if body is None:
                await self._backend.abandon(*key)
            else:
                uid = body["metadata"]["uid"]
                await self._backend.abandon(*key, uid, claimed_by(body))
        except BackendError as error:
            logger.warning("runs of %s %s/%s, which is gone, remain: %s", *key, error)
            if body is None:
                raise
            self._queue.add_after(key, LEFT_RUNS_RETRY_SECONDS)

    async def _reconcile(self, key: Key, body: JsonObject) -> float | None:
        old: JsonObject = body.get("status") or {}
        status, requeue_after = old, None
        try:
            match key.kind:
                case "FineTuneJob":
                    status, requeue_after = await self._fine_tune_job(key, body)
                case "Evaluation":
                    status, requeue_after = await self._evaluation(key, body)
                case "ComputeTarget" | "ClusterComputeTarget":
                    users = self._holds.users(key)
                    observed = await self._targets.observe(parse(body), users)
                    if users and not observed.secret_problem:
                        # Else there is nothing to hold until it is made again.
                        await self._holds.renew(users)
                    # Before anything lets the Secret go that is needed for it.
                    namespace = key.namespace or self._operator_namespace
                    workspace = observed.workspace
                    away = bool(observed.secret_problem or (workspace and workspace.reason))
                    settled = await self._left_behind.end(
                        key, observed.target.spec, namespace, away=away
                    )
                    if settled:
                        await self._actor.release_unused(body)
                    observed = replace(observed, settling=not settled)
                    decision = compute_target.decide(observed, self._now())
                    await self._act(body, decision, old, None)
                    status, requeue_after = decision.status or old, decision.requeue_after
                case _:
                    status, requeue_after = await self._inspect(key, body)
        except _RefusedError as refused:
            status, requeue_after = refused.status, refused.requeue_after
        await self._hold(self._cache.get(*key) or body, status)
        await self._write(key, body, status)
        await self._let_go(self._cache.get(*key) or body)
        return requeue_after

    async def _inspect(self, key: Key, body: JsonObject) -> tuple[JsonObject, float | None]:
        status: JsonObject = body.get("status") or {}
        decision = Decision()
        for _ in range(MAX_ROUNDS):
            # A stamp of an earlier round is in the cache by now.
            body = self._cache.get(*key) or body
            resource = parse(body | {"status": status})
            now = self._now()
            match key.kind:
                case "Dataset":
                    observed = await self._inspected.dataset(resource)
                    decision = dataset.decide(observed, now)
                case "Model":
                    observed = await self._inspected.model(resource)
                    decision = model.decide(observed, now)
                case _:
                    observed = await self._inspected.prompt_template(resource)
                    decision = prompt_template.decide(observed, now)
            status = decision.status if decision.status is not None else status
            if not await self._act(body, decision, status, observed.facts.place):
                break
        return status, decision.requeue_after

    async def _fine_tune_job(self, key: Key, body: JsonObject) -> tuple[JsonObject, float | None]:
        status: JsonObject = body.get("status") or {}
        fresh = self._jobs.run_keys.new(key.namespace, key.name)
        decision, learned = Decision(), self._learned.get(key, Learned())
        observed = None
        for _ in range(MAX_ROUNDS):
            # A stamp of an earlier round is in the cache by now.
            body = self._cache.get(*key) or body
            resource = parse(body | {"status": status})
            run_key = self._jobs.run_keys.of(resource) or fresh
            if error := self.poller.error(run_key):
                away = Reason.TRACKING_UNREACHABLE
                learned = replace(learned, tracking_error=error, tracking_reason=away)
            observed = await self._jobs.observe(
                resource, fresh, learned, self.poller.tracked(run_key)
            )
            decision = fine_tune_job.decide(observed, self._now())
            status = decision.status if decision.status is not None else status
            changed = await self._act(body, decision, status, observed.place)
            before = learned
            learned = await self._actor.learn(observed, learned, decision.actions)
            if not changed and learned == before:
                break
        self._learned[key] = replace(learned, tracking_error="", run_sought=False)
        if observed is not None:
            await self._follow_progress(key, observed)
        return status, decision.requeue_after

    async def _evaluation(self, key: Key, body: JsonObject) -> tuple[JsonObject, float | None]:
        status: JsonObject = body.get("status") or {}
        decision, learned = Decision(), EvaluationLearned()
        observed = None
        for _ in range(MAX_ROUNDS):
            # A stamp of an earlier round is in the cache by now.
            body = self._cache.get(*key) or body
            resource = parse(body | {"status": status})
            observed = await self._evaluations.observe(resource, learned)
            decision = evaluation.decide(observed, self._now())
            status = decision.status if decision.status is not None else status
            changed = await self._act(body, decision, status, observed.place)
            before = learned
            learned = await evaluation_actions.learn(
                self._trackers, observed, learned, decision.actions
            )
            if not changed and learned == before:
                break
        if observed is not None:
            await self._follow_candidates(key, observed)
        return status, decision.requeue_after

    async def _act(
        self,
        body: JsonObject,
        decision: Decision,
        status: JsonObject,
        target: ComputeTargetSpec | None,
    ) -> bool:
        generation = body["metadata"]["generation"]
        try:
            return await self._actor.run(body, decision.actions, status, target)
        except StartRefusedError as refused:
            before: JsonObject = body.get("status") or {}
            told = start_refused(status, refused.error, generation, self._now(), before)
            raise _RefusedError(*told) from refused
        except OutputRefusedError as refused:
            told = output_refused(status, refused.error, generation, self._now())
            raise _RefusedError(*told) from refused
        except REFUSALS as refused:
            error = refusal(body, refused)
            told = change_refused(status, error, generation, self._now())
            raise _RefusedError(*told) from refused
        except BackendError as error:
            raise _RefusedError(*stop_refused(status, error, generation, self._now())) from error

    def restore(self) -> None:
        """Know who needs what, by what is listed; before the first object is looked at."""
        for kind in RUNNING_KINDS:
            for body in self._cache.of_kind(kind):
                status: JsonObject = body.get("status") or {}
                if may_run(body, status):
                    self._holds.note(key_of(body), needs_of(self._cache, body, status))

    async def _hold(self, body: JsonObject, status: JsonObject) -> None:
        """Hold what an object needs by the status that is about to be written."""
        key = key_of(body)
        if key.kind not in RUNNING_KINDS:
            return
        if not may_run(body, status):
            if key.kind in INSPECTED_KINDS:
                # With the status goes the record of what is held, and nothing waits without it.
                await self._holds.leave(key)
        elif "deletionTimestamp" not in body["metadata"]:
            # One that is deleted has held it since its start, and may have let go just now.
            await self._holds.keep(key, needs_of(self._cache, body, status))

    async def _let_go(self, body: JsonObject) -> None:
        """Hold nothing for an object whose status, as it is written, says that nothing runs.

        Not before: whoever looks next would need it to see the same again.
        """
        status: JsonObject = body.get("status") or {}
        if body["kind"] in RUNNING_KINDS and not may_run(body, status):
            await self._holds.leave(key_of(body), needs_of(self._cache, body, status))

    def _needed(self, key: Key) -> None:
        """Who needs an object has changed; a target that is deleted says so."""
        body = self._cache.get(*key) if key.kind in TARGET_KINDS else None
        if body is not None and "deletionTimestamp" in body["metadata"]:
            self._queue.add(key)

    async def _follow_progress(self, key: Key, observed: ObservedJob) -> None:
        """Have the poller follow the run of a job while it lives."""
        live = any(run.phase not in FINISHED for run in observed.runs)
        target = observed.place
        if not live or target is None or observed.job.deleting:
            if not live and observed.job.status.get("phase") not in (Phase.REGISTERING,):
                self._unwatch(key)
            return
        await self._watch(key, target, {observed.run_key})

    async def _follow_candidates(self, key: Key, observed: ObservedEvaluation) -> None:
        """Have the poller follow the runs of an Evaluation that live."""
        live = {
            item.run_key
            for item in observed.candidates
            if any(run.phase not in FINISHED for run in item.runs)
        }
        target = observed.place
        if not live or target is None or observed.evaluation.deleting:
            self._unwatch(key)
            return
        await self._watch(key, target, live)

    async def _watch(self, key: Key, target: ComputeTargetSpec, run_keys: set[str]) -> None:
        """Follow these runs of an object, and no others."""
        try:
            found = await self._trackers.of(target, key.namespace)
        except TrackingError as error:
            logger.warning("progress of %s/%s can't be read: %s", key.namespace, key.name, error)
            return
        experiment = target.tracking.experiment_in(key.namespace)
        for gone in self._watched.get(key, set()) - run_keys:
            self.poller.unwatch(gone)
        for run_key in run_keys:
            self.poller.watch(found.key, found.tracker, run_key, experiment, key)
        self._watched[key] = run_keys

    def _unwatch(self, key: Key) -> None:
        for run_key in self._watched.pop(key, set()):
            self.poller.unwatch(run_key)

    def _forget(self, key: Key) -> None:
        self._unwatch(key)
        self._learned.pop(key, None)
        if key.kind == "FineTuneJob":
            self._jobs.run_keys.forget(key.namespace, key.name)
        self._queue.forget(key)

    async def _is_there(self, key: Key, body: JsonObject) -> bool:
        """Don't wait for the watch, which may be down, to learn what became of an object."""
        try:
            self._cache.put(await self._client.get(*key), ours=False)
        except NotFoundError:
            self._cache.drop(body)
            return False
        return True

    async def _write(self, key: Key, body: JsonObject, status: JsonObject) -> None:
        before, uid = self._cache.get(*key), body["metadata"]["uid"]
        if before is None or before["metadata"]["uid"] != uid:
            # Gone, or another object has taken its name.
            return
        version = before["metadata"]["resourceVersion"]
        # To what is there by now: an action may have written before.
        patch = status_patch(before.get("status") or {}, status)
        if patch is None:
            return
        try:
            # The version: a patch that comes late, after we gave up on its answer, must not undo
            # a later one, nor reach another object of this name (a uid in it would be ignored).
            patch |= {"metadata": {"resourceVersion": version}}
            written = await self._client.patch(*key, patch, subresource="status")
        except NotFoundError:
            # Deleted while we looked: nobody is left to tell, but runs may be left to end.
            self._cache.drop(before)
            return
        unseen = _declared(written) != _declared(before)
        self._cache.put(written)
        if unseen:
            # Our answer overtook somebody's change, whose event will now look old.
            self._queue.add(key)


def _declared(body: JsonObject) -> tuple[Any, ...]:
    """What others decide about an object."""
    metadata = body["metadata"]
    fields = ("uid", "generation", "deletionTimestamp", "annotations", "finalizers")
    return tuple(metadata.get(field) for field in fields)


class _RefusedError(Exception):
    """The target refused an action: what the status says about it."""

    def __init__(self, status: JsonObject, requeue_after: float | None) -> None:
        super().__init__()
        self.status = status
        self.requeue_after = requeue_after


def _is_over(body: JsonObject) -> bool:
    """A finished job that nothing more has to happen to: the cheap way out."""
    metadata, status = body["metadata"], body.get("status") or {}
    released = FINALIZER not in (metadata.get("finalizers") or ())
    # In CML its jobs wait to be deleted with it, which needs the finalizer.
    unguarded = released and "workspace" in (status.get("external") or {})
    return (
        status.get("phase") in TERMINAL_PHASES
        and not unguarded
        and "deletionTimestamp" not in metadata
        and status.get("observedGeneration") == metadata["generation"]
        and "ttlSecondsAfterFinished" not in body["spec"]
        and status.get("phase") != Phase.FAILED
    ) or ("deletionTimestamp" in metadata and released)

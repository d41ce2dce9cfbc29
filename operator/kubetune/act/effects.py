"""Carries out the effects of a decision.

Each may be repeated after a crash at any point: runs are found by their deterministic names, and
the run key is written before anything else.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from kubetune.act.holds import Holds
from kubetune.act.left_behind import LeftBehind
from kubetune.act.release import Release
from kubetune.act.status import status_patch
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.status_types import AnyStatusDict, status_of
from kubetune.clients.kubernetes import REFUSALS, ApiError, ConflictError, KubernetesClient
from kubetune.decide.consent import Lacking, of_request
from kubetune.decide.decision import (
    AbandonRuns,
    CreateModel,
    DeleteRuns,
    DeleteSelf,
    Effect,
    LimitRuns,
    OrphanRuns,
    Record,
    ReleaseFinalizer,
    ReleaseTarget,
    Stamp,
    StartRun,
    StopRuns,
    StopStrays,
    TieToJob,
)
from kubetune.names import FINALIZER, JOB, MANAGED_BY, RUN_KEY
from kubetune.observe.cache import ObjectCache, key_of
from kubetune.observe.consent import Consents
from kubetune.observe.needs import needs_of
from kubetune.observe.objects import made_by, parse
from kubetune.observe.references import TARGET_KINDS
from kubetune.observe.registered_names import RegisteredNames
from kubetune.queue import Key
from kubetune.targets.dispatch import Backends
from kubetune.targets.errors import BackendError
from kubetune.targets.values import RunAddress, RunRequest
from kubetune.tracking.base import TrackingError

logger = logging.getLogger(__name__)


class StartRefusedError(Exception):
    """The target doesn't take the run, now or ever."""

    def __init__(self, error: BackendError, *, recorded: bool = True) -> None:
        super().__init__(str(error))
        self.error = error
        self.recorded = recorded
        """Whether the place and the run key were written before."""


class CleanUpRefusedError(Exception):
    """The target doesn't delete what has to be gone before anything else."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(str(error))
        self.error = error


class OutputRefusedError(Exception):
    """The cluster doesn't take the Model of a result."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(str(error))
        self.error = error


def refusal(body: JsonObject, error: ApiError) -> BackendError:
    """What the API server says about a change, as a reason to wait."""
    kind, name = body["kind"], body["metadata"]["name"]
    message = f"the cluster refuses a change of {kind} {name} or of what was made for it: {error}"
    return BackendError(Reason.TARGET_REFUSED, message, retryable=True)


class Effects:
    """Carries effects out, against the API server and the target."""

    def __init__(
        self,
        cache: ObjectCache,
        client: KubernetesClient,
        consents: Consents,
        names: RegisteredNames,
        backend: Backends,
        holds: Holds,
        release: Release,
        left_behind: LeftBehind,
    ) -> None:
        self._holds = holds
        self._release = release
        self._left_behind = left_behind
        self._cache = cache
        self._client = client
        self._consents = consents
        self._names = names
        self._backend = backend

    async def run(
        self,
        body: JsonObject,
        effects: Sequence[Effect],
        status: Any,
        target: ComputeTargetSpec | None,
    ) -> bool:
        """Carry effects out, in order; True when the target must be observed again.

        ``status`` is what was decided with them, ``target`` where the object's runs are.
        Raises StartRefusedError, CleanUpRefusedError, OutputRefusedError, BackendError.
        """
        changed = False
        key, owner = key_of(body), None
        if starts := [effect.request for effect in effects if isinstance(effect, StartRun)]:
            for request in starts:
                await self._ask_owners(request)
            await self._take(body, status)
        for effect in effects:
            match effect:
                case Stamp():
                    body = await self._stamp(body, effect, status)
                case TieToJob(job):
                    tie = {"annotations": {JOB: job}, "labels": MANAGED_BY}
                    self._cache.put(await self._client.patch(*key, {"metadata": tie}))
                case Record():
                    body = await self._record(body, effect)
                case StartRun(request):
                    if needed := needs_of(self._cache, body, status_of(body)):
                        # No longer what was needed to clean up elsewhere.
                        await self._holds.keep(key, needed)
                    await self._start(request)
                    changed = True
                case StopRuns(run_key, unbegun):
                    owner = owner or parse(body).owner
                    await self._backend.stop(RunAddress(owner, run_key, target), unbegun=unbegun)
                case StopStrays(run_key):
                    owner = owner or parse(body).owner
                    await self._backend.stop_strays(RunAddress(owner, run_key, target))
                case LimitRuns(run_key, seconds, now):
                    owner = owner or parse(body).owner
                    await self._backend.limit(RunAddress(owner, run_key, target), seconds, now)
                case DeleteRuns(run_key, settled, elsewhere, needed):
                    owner = owner or parse(body).owner
                    address = RunAddress(owner, run_key, elsewhere or target, settled)
                    await self._delete(address, needed=needed)
                case AbandonRuns(run_key, why):
                    owner = owner or parse(body).owner
                    address = RunAddress(owner, run_key, target)
                    self._leave(address, why)
                case OrphanRuns(run_key):
                    owner = owner or parse(body).owner
                    await self._backend.orphan(RunAddress(owner, run_key, target))
                case CreateModel(manifest):
                    try:
                        await self._create_model(manifest)
                    except REFUSALS as error:
                        name = manifest["metadata"]["name"]
                        message = f"Model {name}, the output, is refused: {error}"
                        refused = BackendError(Reason.TARGET_REFUSED, message, retryable=True)
                        raise OutputRefusedError(refused) from error
                case DeleteSelf():
                    await self._client.delete(*key, uid=body["metadata"]["uid"])
                case ReleaseFinalizer():
                    held = needs_of(self._cache, body, status_of(body))
                    await self._holds.leave(key, held)
                    await self._release_finalizer(body)
                case ReleaseTarget(forced):
                    await self._release.target(parse(body), forced=forced)
            logger.debug("%s %s/%s: %s", key.kind, key.namespace, key.name, effect)
        return changed

    async def _ask_owners(self, request: RunRequest) -> None:
        """Start nothing with a Secret, claim or service account that isn't opened for it, nor with
        a registered model of another namespace that isn't shared.
        """
        namespace, wanted = request.owner.namespace, of_request(request)
        try:
            lacking = await self._consents.lacking(namespace, wanted, request.target)
            lacking = lacking or await self._names.lacking(request)
        except TrackingError as error:
            lacking = Lacking(error.reason, str(error))
        if lacking:
            refused = BackendError(lacking.reason, lacking.message, retryable=True)
            raise StartRefusedError(refused, recorded=False)

    async def _take(self, body: JsonObject, status: AnyStatusDict) -> None:
        """Hold what a run needs, before the status records that it may be there.

        An operator that ends in between leaves nothing that waits for what is gone by then.
        """
        if needed := needs_of(self._cache, body, status):
            missing = await self._holds.take(key_of(body), needed)
            if missing:
                raise StartRefusedError(_unreachable(missing[0]), recorded=False)

    async def _start(self, request: RunRequest) -> None:
        try:
            await self._backend.ensure(request)
        except BackendError as error:
            raise StartRefusedError(error) from error

    async def _delete(self, address: RunAddress, *, needed: bool) -> None:
        try:
            await self._backend.delete(address)
        except BackendError as error:
            if needed:
                raise CleanUpRefusedError(error) from error
            self._leave(address, str(error))

    def _leave(self, address: RunAddress, why: str) -> None:
        logger.warning("%s left behind: %s", _told(address), why)
        self._backend.forget(address.run_key)
        self._left_behind.note(address)

    async def _record(self, body: JsonObject, record: Record) -> JsonObject:
        status = status_of(body)
        old = {record.field: status[record.field]} if record.field in status else {}
        patch = status_patch(old, {record.field: record.value})
        if patch is None or _says_the_same(old.get(record.field), record):
            return body
        patch["metadata"] = self._precondition(body)
        written = await self._client.patch(*key_of(body), patch, subresource="status")
        self._cache.put(written)
        return written

    def _precondition(self, body: JsonObject) -> JsonObject:
        """Whose status it is, in case another object has taken the name.

        By version: the API server ignores the uid in a patch of a status.
        """
        known, uid = self._cache.get(*key_of(body)), body["metadata"]["uid"]
        newest = known if known and known["metadata"]["uid"] == uid else body
        return {"resourceVersion": newest["metadata"]["resourceVersion"]}

    async def _stamp(self, body: JsonObject, stamp: Stamp, status: JsonObject) -> JsonObject:
        key = key_of(body)
        if patch := status_patch(status_of(body), status) if stamp.run_key else None:
            # In status first. All of it: one that has but a run key would look like one at rest.
            patch["metadata"] = self._precondition(body)
            body = await self._client.patch(*key, patch, subresource="status")
            self._cache.put(body)
        metadata = body["metadata"]
        # The version makes this fail when somebody else changed the object in between.
        change: JsonObject = {"resourceVersion": metadata["resourceVersion"]}
        finalizers: list[str] = list(metadata.get("finalizers") or ())
        if stamp.finalizer and FINALIZER not in finalizers:
            change["finalizers"] = [*finalizers, FINALIZER]
        if stamp.run_key:
            change["annotations"] = {RUN_KEY: stamp.run_key}
        stamped = await self._client.patch(*key, {"metadata": change})
        if stamp.run_key and stamp.fresh:
            # Not one that a backup has brought back: for that much may have been sent.
            self._backend.mark_new(stamp.run_key)
        self._cache.put(stamped)
        return stamped

    async def _release_finalizer(self, body: JsonObject) -> None:
        key, metadata = key_of(body), body["metadata"]
        kept = [name for name in metadata.get("finalizers") or () if name != FINALIZER]
        change = {"resourceVersion": metadata["resourceVersion"], "finalizers": kept}
        released = await self._client.patch(*key, {"metadata": change})
        if "deletionTimestamp" not in metadata:
            # Else it is gone by now.
            self._cache.put(released)

    async def _create_model(self, manifest: JsonObject) -> None:
        key = key_of(manifest)
        manifest = dict(manifest)
        status: JsonObject | None = manifest.pop("status", None)
        try:
            there = await self._client.create(manifest)
            self._cache.put(there, ours=False)
        except ConflictError:
            there = await self._client.get(*key)
            if made_by(there) != made_by(manifest):
                raise
            if there["spec"] != manifest["spec"]:
                changed = dict.fromkeys(there["spec"]["source"])
                source = changed | manifest["spec"]["source"]
                patch = {"spec": manifest["spec"] | {"source": source}}
                there = await self._client.patch(*key, patch)
                self._cache.put(there, ours=False)
        shown = status_of(there)
        if status and any(shown.get(field) != value for field, value in status.items()):
            kept = await self._client.patch(*key, {"status": status}, subresource="status")
            self._cache.put(kept, ours=False)


def _unreachable(missing: Key) -> BackendError:
    """Why no run starts: nobody could follow or stop it."""
    where = f" in namespace {missing.namespace}" if missing.namespace else ""
    message = f"waiting for {missing.kind} {missing.name}{where}"
    reason = Reason.TARGET_MISSING if missing.kind in TARGET_KINDS else Reason.SECRET_MISSING
    if missing.kind == "ConfigMap":
        reason = Reason.CONFIG_MAP_MISSING
    return BackendError(reason, message, retryable=True)


def _says_the_same(old: Any, record: Record) -> bool:
    """Whether what is written has all by which runs are found, whatever else is new."""
    if not record.known_by or old is None:
        return False
    told, new = (
        [[item.get(field) for field in record.known_by] for item in items]
        for items in (old, record.value)
    )
    return told == new


def _told(address: RunAddress) -> str:
    """What its owner doesn't wait for, for the log."""
    owner = address.owner
    block = address.target.block if address.target else None
    where = (block.place_name if block else "") or f"namespace {owner.namespace}"
    return (
        f"{owner.kind} {owner.namespace}/{owner.name}: its runs with run key {address.run_key} in"
        f" {where} are"
    )

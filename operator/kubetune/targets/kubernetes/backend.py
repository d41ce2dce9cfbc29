"""The Kubernetes backend: one batch/v1 Job per attempt in the owner's namespace.

It reads from the watch's cache and writes through the API client; manifests.py says how the
objects look and states.py what they mean.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from datetime import datetime

from kubetune import names
from kubetune.api import API_VERSION, JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.clients.kubernetes import (
    REFUSALS,
    ConflictError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.clients.pods import is_live
from kubetune.keys import Keyring
from kubetune.targets.contract import Bookkeeping
from kubetune.targets.errors import BackendError
from kubetune.targets.kubernetes.api_jobs import jobs_there, with_labels
from kubetune.targets.kubernetes.job_cache import JobCache
from kubetune.targets.kubernetes.job_limits import new_limit
from kubetune.targets.kubernetes.lost_plans import LostPlans
from kubetune.targets.kubernetes.manifests import (
    attempt_of,
    build_job,
    build_plan_config_map,
    build_service,
)
from kubetune.targets.kubernetes.ownership import (
    cut_loose,
    has_mark,
    is_owned,
    is_run_of,
    mark_of,
    marked,
    name_taken,
    pods_of,
    taken_by_loose,
    was_made_for,
    why_foreign,
    why_not_adopted,
)
from kubetune.targets.kubernetes.pod_refusals import PodRefusals, is_quota
from kubetune.targets.kubernetes.states import has_ended, run_state
from kubetune.targets.kubernetes.strangers import Strangers, strangers
from kubetune.targets.kubernetes.strays import is_loose, stray_states, without_job
from kubetune.targets.kubernetes.worker_pods import workers_of
from kubetune.targets.values import FINISHED, Owner, RunAddress, RunRequest, RunState, TargetProbe

logger = logging.getLogger(__name__)

METADATA = ("ownerReferences", "labels", "annotations")
"""What we give to everything that we make."""


class KubernetesBackend(Bookkeeping):
    """Runs as Jobs in this cluster.

    Besides BackendError its calls raise what the client raises when the API server is away:
    ApiError, aiohttp.ClientError, TimeoutError. The caller tries again later.
    """

    def __init__(
        self,
        client: KubernetesClient,
        jobs: JobCache,
        keys: Keyring,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._cache = jobs
        self._keys = keys
        self._strangers = Strangers(client)
        self._refusals = PodRefusals(client, clock)
        self._lost_plans = LostPlans(client, keys, clock)

    async def observe(self, address: RunAddress) -> list[RunState]:
        """All attempts that the watches have shown, oldest first.

        One that was seen to run and isn't shown any more is asked for: our watches show what has
        our label, which a user may have removed.
        """
        jobs, loose = self._jobs(address), list[RunState]()
        for name in self._to_ask_for(address, jobs):
            found = await self._unseen(name, address)
            if found and self._is_ours(found, address):
                jobs.append(found)
            elif found and (attempt := attempt_of(found, address.owner, address.run_key)):
                loose.append(cut_loose(found, attempt))
        await self._tell_of_strangers(address, jobs)
        for job in jobs:
            if has_ended(job):
                await self._catch_up(job, address)
        states = [await self._told(job, address) for job in jobs]
        pods = await self._strays(address, jobs)
        for other in (
            *stray_states(pods, address.run_key, await jobs_there(self._client, pods)),
            *loose,
        ):
            live = {state.attempt for state in states if state.phase not in FINISHED}
            if other.attempt not in live:
                states.append(other)
        return sorted(states, key=lambda state: state.attempt)

    async def probe(self, target: ComputeTargetSpec, namespace: str) -> TargetProbe | None:
        """Nothing to ask: what a Job lacks is told when it waits for that."""
        return None

    async def delete_for_gone_owner(
        self, kind: str, namespace: str, name: str, uid: str = "", claimed: Collection[str] = ()
    ) -> None:
        """Owner references see to what has some; the guarded kinds have seen to the rest."""
        if kind == "FineTuneJob" or uid:
            return
        owner = Owner(API_VERSION, kind, namespace, name, uid)
        for pod in self._cache.live_pods_of(kind, namespace, name):
            if is_loose(pod) and is_run_of(pod, owner, self._keys):
                await self._delete(pod, "Background")

    async def ensure(self, request: RunRequest) -> RunState:
        """Make the attempt's plan and Job, or adopt those that are there."""
        # The plan comes first: a pod whose ConfigMap is missing would wait, but a plan without
        # a Job costs nothing. An existing one stays as it is, it was frozen at first submission.
        await self._create_or_adopt(self._marked(build_plan_config_map(request)), request)
        if request.attempt > 1:
            await self._check_alone(request)
        if request.workers > 1:
            # It too comes before the Job, after which nobody would look for it.
            await self._create_or_adopt(self._marked(build_service(request)), request)
        made = await self._create_or_adopt(self._marked(build_job(request)), request)
        job = await with_labels(self._client, made)
        self._lost_plans.made(job)
        self._cache.put(job)
        return self._state(job)

    async def stop(self, address: RunAddress, *, unbegun: bool = False) -> None:
        """Delete the live Jobs. They are seen as stopping until their pods are gone."""
        if unbegun:
            await self._read(address, "Job", "Pod")
        for job in self._jobs(address):
            phase = self._state(job).phase
            if job["metadata"].get("deletionTimestamp") or phase in FINISHED:
                continue
            if unbegun and phase != "pending":
                logger.info("Job %s has begun, and isn't ended", job["metadata"]["name"])
                continue
            await self._delete(job, "Foreground")

    async def stop_strays(self, address: RunAddress) -> None:
        """Delete pods that have lost their Job. Their own time of grace lets them save."""
        for pod in await self._strays(address, self._jobs(address)):
            if is_loose(pod):
                await self._delete(pod, "Background")

    async def limit(self, address: RunAddress, seconds: float | None, now: datetime) -> None:
        """Set activeDeadlineSeconds of the live Jobs, where it isn't what it must be."""
        for job in self._jobs(address):
            state = self._state(job)
            if state.phase not in ("pending", "running"):
                continue
            started = state.phase == "running" and state.started_at is not None
            limit = new_limit(job, seconds, now, started=started)
            if limit is None:
                continue
            metadata = job["metadata"]
            change = limit.patch
            change["metadata"]["uid"] = metadata["uid"]
            try:
                changed = await self._client.patch(
                    "Job", metadata["namespace"], metadata["name"], change
                )
            except (*REFUSALS, NotFoundError, ConflictError) as error:
                # The limit is for times without an operator; this one stops the run itself.
                logger.warning("Job %s keeps its activeDeadlineSeconds: %s", state.name, error)
                continue
            self._cache.put(changed)

    async def delete(self, address: RunAddress) -> None:
        """Delete all Jobs, with their pods, and the plan.

        A Service goes with its owner, and costs nothing until then.
        """
        # Listed, not from the cache: afterwards nobody looks again.
        for kind in ("Job", "ConfigMap"):
            for item in await self._owned(kind, address):
                if not item["metadata"].get("deletionTimestamp"):
                    await self._delete(item, "Foreground" if kind == "Job" else "Background")
        await self.stop_strays(address)

    async def orphan(self, address: RunAddress) -> None:
        """Take the owner references off, so that the garbage collector leaves what a run needs."""
        jobs = await self._owned("Job", address)
        found = [*jobs, *await self._owned("ConfigMap", address)]
        if any(workers_of(job) > 1 for job in jobs):
            found += await self._service(address)
        for item in found:
            metadata = item["metadata"]
            change = {"uid": metadata["uid"], "ownerReferences": None}
            await self._client.patch(
                item["kind"], metadata["namespace"], metadata["name"], {"metadata": change}
            )

    async def _service(self, address: RunAddress) -> list[JsonObject]:
        name = names.service_name(address.run_key)
        try:
            service = await self._client.get("Service", address.owner.namespace, name)
        except NotFoundError:
            return []
        return [service] if is_owned(service, address.owner) else []

    def _jobs(self, address: RunAddress) -> list[JsonObject]:
        """The attempts that the watches have shown."""
        return [job for job in self._cache.jobs(address.owner.uid) if self._is_ours(job, address)]

    def _is_ours(self, job: JsonObject, address: RunAddress) -> bool:
        return not why_foreign(job, address.owner, address.run_key, self._keys)

    def _marked(self, manifest: JsonObject) -> JsonObject:
        return marked(manifest, self._keys)

    def _to_ask_for(self, address: RunAddress, jobs: list[JsonObject]) -> set[str]:
        """Names of attempts that may be there, though what the watches show isn't known as ours.

        Watches show no templates, and by their word a Job may have lost its mark.
        """
        ours = {job["metadata"]["name"] for job in jobs}
        bare = {
            job["metadata"]["name"]
            for job in self._cache.jobs(address.owner.uid)
            if job["metadata"]["name"] not in ours
            and is_owned(job, address.owner)
            and attempt_of(job, address.owner, address.run_key)
            and not self._strangers.is_known(address.owner, job)
        }
        return (bare | set(address.running)) - ours

    async def _tell_of_strangers(self, address: RunAddress, jobs: list[JsonObject]) -> None:
        owner = address.owner
        found = strangers(self._cache, owner, address.run_key, jobs, self._keys)
        await self._strangers.tell(owner, found)

    async def _told(self, job: JsonObject, address: RunAddress) -> RunState:
        """The state of a Job, with what only the API server can tell of why it waits."""
        state = await self._refusals.told(self._state(job), job)
        pods = self._pods(job)
        return await self._lost_plans.told(state, job, pods, address.owner, address.run_key)

    async def _strays(self, address: RunAddress, jobs: list[JsonObject]) -> list[JsonObject]:
        owner, uids = address.owner, {job["metadata"]["uid"] for job in jobs}
        pods = self._cache.live_pods(address.run_key)
        strays = without_job(pods, owner, address.run_key, uids, self._keys)
        if all(is_loose(pod) for pod in strays):
            return strays
        # The garbage collector ends the rest, and may have done so unseen: a watch that doesn't
        # show it would have the job wait for ever.
        there = {pod["metadata"]["uid"] for pod in await self._list("Pod", address)}
        for pod in strays:
            if pod["metadata"]["uid"] not in there:
                self._cache.drop(pod)
        return [pod for pod in strays if pod["metadata"]["uid"] in there]

    async def _check_alone(self, request: RunRequest) -> None:
        """Raise while a pod of an earlier attempt lives, which a watch may not have shown."""
        address = RunAddress(request.owner, request.run_key, request.target)
        await self._read(address, "Pod")
        number = str(request.attempt)
        for pod in self._cache.live_pods(request.run_key):
            if not is_run_of(pod, request.owner, self._keys):
                continue
            if (pod["metadata"].get("labels") or {}).get(names.ATTEMPT, number) != number:
                raise BackendError(
                    Reason.STOPPING,
                    f"pod {pod['metadata']['name']} of an earlier attempt still runs",
                    retryable=True,
                )

    async def _unseen(self, name: str, address: RunAddress) -> JsonObject | None:
        """A Job of ours that no watch shows, with its labels again, or one that was cut loose.

        None when it is gone, has ended without us, or was never ours.
        """
        try:
            job = await self._client.get("Job", address.owner.namespace, name)
            if not self._is_ours(job, address):
                keys = (address.run_key, self._keys)
                loose = was_made_for(job, address.owner, *keys) and not has_ended(job)
                return job if loose else None
            job = await with_labels(self._client, job)
        except (NotFoundError, ConflictError):
            return None
        self._cache.put(job)
        return job

    async def _catch_up(self, job: JsonObject, address: RunAddress) -> None:
        """Read the pods of an ended Job that our watch of pods doesn't show as ended.

        A Job ends after its pods. What the run left is in the pod: without it a result is lost.
        """
        known = self._pods(job)
        if known and not any(is_live(pod) for pod in known):
            return
        await self._read(address, "Pod")

    def _state(self, job: JsonObject) -> RunState:
        return run_state(job, self._pods(job))

    def _pods(self, job: JsonObject) -> list[JsonObject]:
        return pods_of(job, self._cache.pods(job["metadata"]["uid"]))

    async def _create_or_adopt(self, manifest: JsonObject, request: RunRequest) -> JsonObject:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        try:
            return await self._client.create(manifest)
        except ConflictError:
            found = await self._client.get(kind, request.owner.namespace, name)
        except REFUSALS as error:
            # A policy refuses by 422, as the schema does: an admin may change what it asks for.
            reason = Reason.QUOTA_EXCEEDED if is_quota(str(error)) else Reason.TARGET_REFUSED
            raise BackendError(reason, f"{kind} {name}: {error}", retryable=True) from error
        owner, keys = request.owner, self._keys
        if kind != "Job":
            if why := why_not_adopted(found, manifest, owner, keys):
                raise name_taken(found, owner, why)
            whole = is_owned(found, owner) and has_mark(found, keys)
            return found if whole else await self._claim(found, manifest)
        if not (why := why_foreign(found, owner, request.run_key, keys)):
            return found
        if was_made_for(found, owner, request.run_key, keys):
            raise taken_by_loose(found, request)
        raise name_taken(found, owner, why)

    async def _claim(self, found: JsonObject, manifest: JsonObject) -> JsonObject:
        """What our runs read, with owner and labels again: nobody else has a use for it."""
        there = found["metadata"]
        change = {key: manifest["metadata"][key] for key in METADATA}
        change["annotations"] |= mark_of(found, self._keys)
        change |= {"uid": there["uid"], "resourceVersion": there["resourceVersion"]}
        where = (found["kind"], there["namespace"], there["name"])
        return await self._client.patch(*where, {"metadata": change})

    async def _owned(self, kind: str, address: RunAddress) -> list[JsonObject]:
        """What was made for a run key and is the owner's."""
        items = await self._list(kind, address)
        if kind == "Job":
            return [item for item in items if self._is_ours(item, address)]
        return [item for item in items if is_owned(item, address.owner)]

    async def _read(self, address: RunAddress, *kinds: str) -> None:
        """Have the cache know what is there now: watches may be behind."""
        for kind in kinds:
            for item in await self._list(kind, address):
                self._cache.put(item)

    async def _list(self, kind: str, address: RunAddress) -> list[JsonObject]:
        """What has the label of a run key, whosever it is."""
        path = self._client.path(kind, address.owner.namespace)
        answer = await self._client.request(
            "GET", path, query={"labelSelector": f"{names.RUN_KEY}={address.run_key}"}
        )
        # Items of a list don't say their kind.
        return [{"kind": kind, **item} for item in answer["items"]]

    async def _delete(self, item: JsonObject, propagation: str) -> None:
        """Foreground keeps the object until its pods are gone, so that it can be seen stopping."""
        metadata = item["metadata"]
        path = self._client.path(item.get("kind", "Job"), metadata["namespace"], metadata["name"])
        options = {"propagationPolicy": propagation, "preconditions": {"uid": metadata["uid"]}}
        try:
            await self._client.request("DELETE", path, body=options)
        except NotFoundError:
            # Its watch was down, or is slower than we are.
            self._cache.drop(item)
        except ConflictError:
            if await self._has_its_name(item):
                raise
            self._cache.drop(item)

    async def _has_its_name(self, item: JsonObject) -> bool:
        """Whether it is still this object, and not a successor, that has its name."""
        metadata = item["metadata"]
        kind = item.get("kind", "Job")
        try:
            found = await self._client.get(kind, metadata["namespace"], metadata["name"])
        except NotFoundError:
            return False
        return found["metadata"]["uid"] == metadata["uid"]

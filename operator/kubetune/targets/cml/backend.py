"""The CML backend: see the package's docstring for its parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.run.plan import CML_RUNS_FOLDER
from kubetune.clients.cml import CmlError, NotFoundError
from kubetune.clients.cml_clients import CmlClients
from kubetune.clients.cml_models import JobRun
from kubetune.clients.cml_operations import DELETE_PROJECT_FILE, UPDATE_JOB
from kubetune.targets.cml.following import Follower
from kubetune.targets.cml.jobs import remove_job, stop_run
from kubetune.targets.cml.manifests import made, with_deletion
from kubetune.targets.cml.probe import probe
from kubetune.targets.cml.states import is_active, is_unbegun
from kubetune.targets.cml.submission import (
    LOOK_AGAIN_SECONDS,
    ReadConfigMap,
    Submission,
    not_known,
)
from kubetune.targets.cml.workspace import ReadAccess, Workspace, refused
from kubetune.targets.contract import Bookkeeping
from kubetune.targets.errors import BackendError
from kubetune.targets.values import Made, Owner, RunAddress, RunRequest, RunState, TargetProbe

logger = logging.getLogger(__name__)

GUARDED_KINDS = frozenset({"FineTuneJob"})
"""Their finalizer keeps an object until its runs are gone; others vanish silently."""
GONE_RETRY_SECONDS = 1.0
TAKE_BACK_SECONDS = 10.0
"""For calls that are under way when the operator ends, and for what they make necessary."""
LOOKUP_SECONDS = 10.0
"""A listing of this age answers who asks for a run key the first time."""


TakenOver = Callable[[RunAddress], Awaitable[bool]]
"""Whether another object of the owner's name has the runs by now, as one from a backup."""


async def nobody(address: RunAddress) -> bool:
    """Nothing is taken over."""
    return False


class CmlBackend(Bookkeeping):
    """Runs as jobs of CML workspaces; see kubetune.targets.contract.Backend.

    ``notify`` is called with an owner whose runs have news. ``settle_seconds`` is how long a
    create without an answer may take to show in a listing, ``unknown_seconds`` how long a run may
    have a status that nobody knows. ``taken_over`` asks before anything is ended.
    """

    def __init__(
        self,
        clients: CmlClients,
        read_access: ReadAccess,
        read_config_map: ReadConfigMap,
        notify: Callable[[Owner], None],
        *,
        settle_seconds: float = 90.0,
        unknown_seconds: float = 300.0,
        taken_over: TakenOver = nobody,
    ) -> None:
        self._taken_over = taken_over
        self._clients = clients
        self._read_access = read_access
        self._notify = notify
        self._settle_seconds = settle_seconds
        self._unknown_seconds = unknown_seconds
        self._submission = Submission(read_config_map, settle_seconds)
        self._absent: set[str] = set()
        """Run keys that no listing has shown, and for which nothing was sent since."""
        self._again: dict[str, asyncio.TimerHandle] = {}
        """Who is told to look again, by run key."""
        self._workspaces: dict[tuple[str, str], tuple[Workspace, Follower]] = {}
        self._places: dict[str, tuple[str, str]] = {}
        """Key of the workspace that is asked about a run key."""
        self._owned: dict[tuple[str, str, str], dict[str, RunAddress]] = {}
        """Runs that are followed, by their owner's kind, namespace and name, then by run key.

        A finalizer may be taken away by force, and the owner be gone before anybody has looked.
        """
        self._owners: dict[str, tuple[str, str, str]] = {}

    def workspace(self, namespace: str, target: CmlTarget) -> Workspace:
        """The workspace that a target names, with the credentials of a namespace."""
        return self._of(_key(namespace, target), target)[0]

    async def probe(self, target: ComputeTargetSpec, namespace: str) -> TargetProbe | None:
        """See kubetune.targets.contract."""
        return await probe(self.workspace(namespace, target.cml)) if target.cml else None

    async def observe(self, address: RunAddress) -> list[RunState]:
        """All attempts, oldest first; from memory once the run key is followed."""
        workspace, follower = self._at(address)
        follower.check(address.owner, address.run_key)
        followed = follower.get(address.run_key)
        if followed:
            self._note(address)
        # Inspections are not doubted: there are many at a start, and a duplicate costs little.
        guarded = address.owner.kind in GUARDED_KINDS
        doubted = guarded and not (followed and followed.states)
        expects = self._submission.expects(address.run_key, doubted=doubted)
        seen = {state.name for state in followed.states} if followed else set[str]()
        # An operator that ended, or a twin, may have started what no list of ours shows yet.
        unseen = not seen.issuperset(address.running)
        if unseen and address.job_id:
            self._submission.remember(address.run_key, address.job_id)
        if followed and (followed.active or not expects) and not unseen:
            return followed.states
        if address.run_key in self._absent and not unseen:
            return []
        if expects:
            # What shows late must be seen, also when nothing else happens.
            self._look_again(address)
        try:
            age = 0.0 if unseen else LOOK_AGAIN_SECONDS if expects else LOOKUP_SECONDS
            since = time.monotonic() - age
            job = await self._submission.find(workspace, address.owner, address.run_key, since)
            if job is None:
                if not expects:
                    self._absent.add(address.run_key)
                return []
            runs = await workspace.runs(job.id, also=address.running)
            self._submission.found(address.run_key, job, runs)
            expects = self._submission.expects(address.run_key, doubted=guarded and not runs)
            followed = await follower.follow(address.owner, address.run_key, job, runs)
            self._note(address)
            if expects and not followed.states:
                raise not_known()
        except (CmlError, BackendError) as error:
            raise follower.failed(error, address.owner, address.run_key) from error
        return followed.states

    def mark_new(self, run_key: str) -> None:
        """See kubetune.targets.contract."""
        self._submission.mark_new(run_key)

    async def ensure(self, request: RunRequest) -> RunState:
        """Make the attempt's run, or adopt it when it is there."""
        address = RunAddress(request.owner, request.run_key, request.target)
        workspace, follower = self._at(address)
        follower.check(request.owner, request.run_key)
        self._note(address)
        self._absent.discard(request.run_key)
        try:
            followed = follower.get(request.run_key)
            job = followed.job if followed else await self._submission.job(workspace, request)
            job, runs = await self._submission.run(workspace, request, job)
            followed = await follower.follow(request.owner, request.run_key, job, runs)
        except NotFoundError as error:
            # The job was deleted by hand: the next look finds none and makes one.
            follower.forget(request.run_key)
            gone = self._submission.job_is_gone(request.run_key)
            raise BackendError(
                Reason.TARGET_REFUSED,
                f"CML doesn't find the job: {error}",
                retryable=True,
                retry_after=GONE_RETRY_SECONDS if gone else None,
            ) from error
        except (CmlError, BackendError) as error:
            raise follower.failed(error, request.owner, request.run_key) from error
        return next(state for state in followed.states if state.attempt == request.attempt)

    async def stop(self, address: RunAddress, *, unbegun: bool = False) -> None:
        """Stop all live runs, or those that wait for room or an engine."""
        workspace, follower = self._at(address)
        follower.check(address.owner, address.run_key)
        owner, run_key = address.owner, address.run_key
        try:
            job = await self._submission.find(workspace, owner, run_key, time.monotonic())
            if job is None:
                return
            for run in await follower.runs(run_key, job):
                if is_unbegun(run) if unbegun else is_active(run):
                    await self._check_owner(address)
                    await stop_run(workspace, job.id, run.id)
        except (CmlError, BackendError) as error:
            raise follower.failed(error, owner, run_key) from error
        follower.hurry(run_key)

    async def delete(self, address: RunAddress) -> None:
        """Delete all jobs of the run key, stopping what runs, and their files."""
        workspace, follower = self._at(address)
        follower.check(address.owner, address.run_key)
        run_key, now = address.run_key, time.monotonic()
        try:
            runs: dict[str, list[JobRun]] = {}
            for job in await self._submission.find_all(workspace, address.owner, run_key, now):
                runs[job.id] = await follower.runs(run_key, job)
                self._submission.found(run_key, job, runs[job.id])
            # An inspection that shows after its end has cost little and goes with its object.
            found = bool(runs) or address.settled or address.owner.kind not in GUARDED_KINDS
            self._submission.wait_for_answers(run_key, now, found=found)
            await self._check_owner(address)
            for job_id, of_job in runs.items():
                await remove_job(workspace, job_id, of_job)
            with contextlib.suppress(NotFoundError):
                await workspace.write(DELETE_PROJECT_FILE, f"{CML_RUNS_FOLDER}/{run_key}")
        except (CmlError, BackendError) as error:
            raise follower.failed(error, address.owner, address.run_key) from error
        self.forget(run_key)

    async def delete_for_gone_owner(
        self, kind: str, namespace: str, name: str, uid: str = "", claimed: Collection[str] = ()
    ) -> None:
        """See kubetune.targets.contract."""
        for address in list(self._owned.get((kind, namespace, name), {}).values()):
            if address.owner.uid == uid or address.run_key in claimed:
                continue
            if address.kept:
                await self.orphan(address)
            else:
                await self._delete_if_there(address)

    async def _delete_if_there(self, address: RunAddress) -> None:
        try:
            await self.delete(address)
        except BackendError as error:
            if error.reason != Reason.PROJECT_MISSING:
                raise
            self.forget(address.run_key)

    async def orphan(self, address: RunAddress) -> None:
        """Look at it no more, and have it say so: nobody shall take it for left behind."""
        try:
            workspace, _ = self._at(address)
            owner, run_key = address.owner, address.run_key
            now = time.monotonic()
            for job in await self._submission.find_all(workspace, owner, run_key, now):
                await workspace.write(UPDATE_JOB, job.id, body=with_deletion(job, kept=True))
        except (CmlError, BackendError) as error:
            # Whoever lets a job go may do so because nobody reaches its workspace.
            logger.warning("the job of %s isn't marked as let go: %s", address.run_key, error)
        self.forget(address.run_key)

    async def made_for(
        self, namespace: str, target: ComputeTargetSpec, install_id: str, *, fresh: bool = False
    ) -> list[Made]:
        """See kubetune.targets.contract."""
        if target.cml is None:
            return []
        workspace = self.workspace(namespace, target.cml)
        try:
            jobs = await workspace.all_jobs(time.monotonic() - (0 if fresh else LOOKUP_SECONDS))
        except CmlError as error:
            raise refused(error, target.cml.url) from error
        return [found for job in jobs if (found := made(job, install_id))]

    def forget(self, run_key: str) -> None:
        """See kubetune.targets.contract."""
        self._submission.forget(run_key)
        self._absent.discard(run_key)
        if name := self._owners.pop(run_key, None):
            self._owned[name].pop(run_key, None)
            if not self._owned[name]:
                del self._owned[name]
        self._places.pop(run_key, None)
        if timer := self._again.pop(run_key, None):
            timer.cancel()
        for _, follower in self._workspaces.values():
            follower.forget(run_key)

    async def close(self) -> None:
        """Stop following, and take back what was made beside another operator's."""
        for timer in self._again.values():
            timer.cancel()
        await self._clients.answered(TAKE_BACK_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKE_BACK_SECONDS):
                await self._submission.take_back()
        await asyncio.gather(*(follower.close() for _, follower in self._workspaces.values()))

    def _look_again(self, address: RunAddress) -> None:
        def look() -> None:
            del self._again[address.run_key]
            self._notify(address.owner)

        if address.run_key not in self._again:
            loop = asyncio.get_running_loop()
            self._again[address.run_key] = loop.call_later(LOOK_AGAIN_SECONDS, look)

    async def _check_owner(self, address: RunAddress) -> None:
        """Raise when another object has the runs: what was decided for the owner is out of date.

        A watch may be behind, and finding the runs takes its time.
        """
        owner = address.owner
        if owner.kind in GUARDED_KINDS and await self._taken_over(address):
            raise BackendError(
                Reason.STOPPING,
                f"another {owner.kind} {owner.name} has its runs by now, and they are left to it",
                retryable=True,
            )

    def _at(self, address: RunAddress) -> tuple[Workspace, Follower]:
        target = address.target.cml if address.target else None
        if target is None:
            raise BackendError(
                Reason.TARGET_MISSING,
                "the compute target of the run is gone: make it again, or set deletionPolicy:"
                " Orphan to let the job go without it",
                retryable=True,
            )
        key = _key(address.owner.namespace, target)
        workspace, follower = self._of(key, target)
        before = self._places.get(address.run_key)
        if before is not None and before != key:
            # The target was changed: what follows by its old spec must not run next to this.
            self._workspaces[before][1].forget(address.run_key)
        self._places[address.run_key] = key
        return workspace, follower

    def _note(self, address: RunAddress) -> None:
        owner = address.owner
        name = (owner.kind, owner.namespace, owner.name)
        self._owned.setdefault(name, {})[address.run_key] = address
        self._owners[address.run_key] = name

    def _of(self, key: tuple[str, str], target: CmlTarget) -> tuple[Workspace, Follower]:
        if key not in self._workspaces:
            workspace = Workspace(self._clients, self._read_access, key[0], target)
            follower = Follower(
                workspace, self._notify, self._unknown_seconds, self._settle_seconds
            )
            self._workspaces[key] = workspace, follower
        return self._workspaces[key]


def _key(namespace: str, target: CmlTarget) -> tuple[str, str]:
    """What makes a workspace the same one: whose credentials, and everything in the target."""
    return namespace, target.model_dump_json()

"""Reads the progress of running jobs from their tracking servers.

One task per server asks for all its watched runs in one search, so a slow server delays nobody
else and the number of jobs doesn't change the number of requests. Nothing is asked while
nothing is watched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from kubetune.api.conditions import Reason
from kubetune.tracking.base import TrackedRun, TrackingError

logger = logging.getLogger(__name__)

MAX_BACKOFF_SECONDS = 60.0

K = TypeVar("K", bound=Hashable)


class RunSource(Protocol):
    """The part of a Tracker that is used here."""

    async def running(self, install_id: str, experiments: Sequence[str]) -> list[TrackedRun]:
        """See kubetune.tracking.base.Tracker."""
        ...


@dataclass
class _Watched(Generic[K]):
    """One job whose run is followed."""

    experiment: str
    key: K


@dataclass
class _Server(Generic[K]):
    """One tracking server and what is watched there, by run key."""

    tracker: RunSource
    watched: dict[str, _Watched[K]] = field(default_factory=dict[str, _Watched[K]])
    failures: int = 0
    error: str = ""
    reason: Reason = Reason.TRACKING_UNREACHABLE


class ProgressPoller(Generic[K]):
    """Follows runs by run key; ``notify`` is called with a job's key when its run has news.

    ``run`` must be running for anything to happen; ``watch`` and ``unwatch`` may be called
    before, and as often as one likes.
    """

    def __init__(self, install_id: str, poll_seconds: float, notify: Callable[[K], object]) -> None:
        self._install_id = install_id
        self._poll_seconds = poll_seconds
        self._notify = notify
        self._servers: dict[str, _Server[K]] = {}
        self._server_of: dict[str, str] = {}
        self._runs: dict[str, TrackedRun] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def watch(
        self, tracker_key: str, tracker: RunSource, run_key: str, experiment: str, key: K
    ) -> None:
        """Follow a run; the last call counts, also when the tracker is another one."""
        if self._server_of.get(run_key) not in (None, tracker_key):
            self._leave(run_key)
        server = self._servers.setdefault(tracker_key, _Server(tracker))
        server.tracker = tracker
        server.watched[run_key] = _Watched(experiment, key)
        self._server_of[run_key] = tracker_key
        if tracker_key not in self._tasks:
            self._changed.set()

    def unwatch(self, run_key: str) -> None:
        """Stop following a run and forget what was seen of it."""
        self._leave(run_key)
        self._runs.pop(run_key, None)

    def tracked(self, run_key: str) -> TrackedRun | None:
        """The newest state that was seen of a watched run."""
        return self._runs.get(run_key)

    def error(self, run_key: str) -> str:
        """Why the run's server could not be read last time; empty when it could."""
        server = self._servers.get(self._server_of.get(run_key, ""))
        return server.error if server else ""

    def reason(self, run_key: str) -> Reason:
        """What a condition says of the error."""
        server = self._servers.get(self._server_of.get(run_key, ""))
        return server.reason if server else Reason.TRACKING_UNREACHABLE

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for tracker_key in self._servers.keys() - self._tasks.keys():
                    self._tasks[tracker_key] = group.create_task(self._follow(tracker_key))

    def _leave(self, run_key: str) -> None:
        tracker_key = self._server_of.pop(run_key, None)
        if tracker_key is None:
            return
        server = self._servers[tracker_key]
        del server.watched[run_key]
        if not server.watched:
            del self._servers[tracker_key]

    async def _follow(self, tracker_key: str) -> None:
        try:
            while server := self._servers.get(tracker_key):
                await self._poll(server)
                backoff = self._poll_seconds * 2 ** min(server.failures, 16)
                longest = max(self._poll_seconds, MAX_BACKOFF_SECONDS)
                await asyncio.sleep(min(backoff, longest))
        finally:
            del self._tasks[tracker_key]

    async def _poll(self, server: _Server[K]) -> None:
        experiments = sorted({watched.experiment for watched in server.watched.values()})
        try:
            runs = await server.tracker.running(self._install_id, experiments)
        except TrackingError as error:
            self._failed(server, str(error), error.away)
            return
        except Exception:
            # A server of another kind may answer anything; that must not end the polling.
            logger.exception("reading runs failed")
            self._failed(server, "the tracking server's answer can't be read; see the log")
            return
        recovered = bool(server.error)
        server.failures, server.error = 0, ""
        by_run_key = {run.run_key: run for run in runs}
        for run_key, watched in list(server.watched.items()):
            run = by_run_key.get(run_key)
            news = run is not None and run != self._runs.get(run_key)
            if run is not None:
                self._runs[run_key] = run
            if news or recovered:
                self._notify(watched.key)

    def _failed(
        self, server: _Server[K], error: str, reason: Reason = Reason.TRACKING_UNREACHABLE
    ) -> None:
        server.failures += 1
        news = error != server.error
        server.error, server.reason = error, reason
        if news:
            for watched in list(server.watched.values()):
                self._notify(watched.key)

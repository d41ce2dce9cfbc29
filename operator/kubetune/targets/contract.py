"""The contract of a target: idempotent calls that never block the loop.

Five are required: ``observe`` tells facts and changes nothing; ``ensure`` makes the run of an
attempt or adopts the one that is there; ``stop`` and ``delete`` may be repeated; ``probe`` asks
whether a run would find what it needs. The decision which call follows is made in
kubetune.decide alone. What else only some targets need is Bookkeeping.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Protocol

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.targets.values import Made, RunAddress, RunRequest, RunState, TargetProbe


class Backend(Protocol):
    """What every type of target can do. All calls raise BackendError."""

    async def observe(self, address: RunAddress) -> list[RunState]:
        """All attempts that the target knows, oldest first.

        From what watches or polls have shown; the target itself is asked only the first time.
        """
        ...

    async def ensure(self, request: RunRequest) -> RunState:
        """Make the attempt's run, or adopt it when it is there."""
        ...

    async def stop(self, address: RunAddress, *, unbegun: bool = False) -> None:
        """Stop all live runs, with grace. Repeatable; stopped ones are left alone.

        ``unbegun``: only those that still wait to begin, as the target says now.
        """
        ...

    async def delete(self, address: RunAddress) -> None:
        """Delete all runs and what was made for them. Repeatable."""
        ...

    async def probe(self, target: ComputeTargetSpec, namespace: str) -> TargetProbe | None:
        """Whether runs of a namespace would find what they need; None: there is nothing to ask."""
        ...


class Bookkeeping:
    """What a backend may do besides that, by deriving from this and overriding what it needs.

    The answers here suit a target that remembers nothing and whose runs need no care.
    """

    def mark_new(self, run_key: str) -> None:
        """The key was made just now: nothing can have been sent for it."""

    def forget(self, run_key: str) -> None:
        """Nobody will ask for the key's runs again."""

    async def limit(self, address: RunAddress, seconds: float | None, now: datetime) -> None:
        """Have the target end live runs after so many seconds of running from ``now``.

        None: not at all. Repeatable; what can't be changed on the target stays as it is.
        """

    async def stop_strays(self, address: RunAddress) -> None:
        """Stop what of the runs goes on without belonging to one any more. Repeatable."""

    async def orphan(self, address: RunAddress) -> None:
        """Cut the runs loose, so that they outlive their owner. Repeatable."""

    async def delete_for_gone_owner(
        self, kind: str, namespace: str, name: str, uid: str = "", claimed: Collection[str] = ()
    ) -> None:
        """The owner is gone, and no finalizer has kept it: delete what is known of its runs.

        ``uid`` is that of an object which has its name by now, and ``claimed`` are run keys that
        it has taken over, as from a backup. Repeatable.
        """

    async def made_for(
        self, namespace: str, target: ComputeTargetSpec, install_id: str, *, fresh: bool = False
    ) -> list[Made]:
        """What this installation has made in a target outside of the cluster.

        ``namespace`` is the one whose credentials are used; ``fresh``: a list of some seconds ago
        won't do.
        """
        return []

    async def close(self) -> None:
        """The operator ends: end the background tasks."""

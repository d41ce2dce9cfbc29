"""All kinds of targets as one backend: the target says which one is asked."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.targets.contract import Backend, Made, RunAddress, RunRequest, RunState


class Backends:
    """Passes every call on; see kubetune.targets.contract.Backend."""

    def __init__(self, kubernetes: Backend, cml: Backend) -> None:
        self._kubernetes = kubernetes
        self._cml = cml

    async def observe(self, address: RunAddress) -> list[RunState]:
        """All attempts that the target knows, oldest first."""
        return await self._of(address.target).observe(address)

    def mark_new(self, run_key: str) -> None:
        """The key was made just now; the target may not be known yet."""
        self._cml.mark_new(run_key)
        self._kubernetes.mark_new(run_key)

    async def ensure(self, request: RunRequest) -> RunState:
        """Make the attempt's run, or adopt it when it is there."""
        return await self._of(request.target).ensure(request)

    async def stop(self, address: RunAddress) -> None:
        """Stop all live runs."""
        await self._of(address.target).stop(address)

    async def limit(self, address: RunAddress, seconds: float | None, now: datetime) -> None:
        """Have the target end live runs in time."""
        await self._of(address.target).limit(address, seconds, now)

    async def stop_strays(self, address: RunAddress) -> None:
        """Stop what of the runs goes on by itself."""
        await self._of(address.target).stop_strays(address)

    async def delete(self, address: RunAddress) -> None:
        """Delete all runs and what was made for them."""
        await self._of(address.target).delete(address)

    async def orphan(self, address: RunAddress) -> None:
        """Cut the runs loose."""
        await self._of(address.target).orphan(address)

    async def delete_for_gone_owner(
        self, kind: str, namespace: str, name: str, uid: str = "", claimed: Collection[str] = ()
    ) -> None:
        """The owner is gone: delete what is known of its runs."""
        await self._cml.delete_for_gone_owner(kind, namespace, name, uid, claimed)
        await self._kubernetes.delete_for_gone_owner(kind, namespace, name, uid, claimed)

    async def made_for(
        self, namespace: str, target: ComputeTargetSpec, install_id: str, *, fresh: bool = False
    ) -> list[Made]:
        """What this installation has made in a target outside of the cluster."""
        return await self._of(target).made_for(namespace, target, install_id, fresh=fresh)

    def forget(self, run_key: str) -> None:
        """Nobody will ask for the key's runs again."""
        self._cml.forget(run_key)
        self._kubernetes.forget(run_key)

    def _of(self, target: ComputeTargetSpec | None) -> Backend:
        # Without a target only Jobs in the owner's own namespace can be found.
        return self._cml if target is not None and target.cml is not None else self._kubernetes

"""All types of targets as one backend: the target says which one is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.targets.contract import Backend, Bookkeeping
from kubetune.targets.values import Made, RunAddress, RunRequest, RunState, TargetProbe

IN_CLUSTER = "kubernetes"
"""Asked without a target: only Jobs in the owner's own namespace can be found then."""


class Backends(Bookkeeping):
    """Passes every call on; see kubetune.targets.contract."""

    def __init__(self, by_type: Mapping[str, Backend]) -> None:
        self._by_type = by_type
        plain = Bookkeeping()
        self._books = {
            name: backend if isinstance(backend, Bookkeeping) else plain
            for name, backend in by_type.items()
        }

    async def observe(self, address: RunAddress) -> list[RunState]:
        """All attempts that the target knows, oldest first."""
        return await self._by_type[_type(address.target)].observe(address)

    async def ensure(self, request: RunRequest) -> RunState:
        """Make the attempt's run, or adopt it when it is there."""
        return await self._by_type[_type(request.target)].ensure(request)

    async def stop(self, address: RunAddress, *, unbegun: bool = False) -> None:
        """Stop all live runs, or those that wait to begin."""
        await self._by_type[_type(address.target)].stop(address, unbegun=unbegun)

    async def delete(self, address: RunAddress) -> None:
        """Delete all runs and what was made for them."""
        await self._by_type[_type(address.target)].delete(address)

    async def probe(self, target: ComputeTargetSpec, namespace: str) -> TargetProbe | None:
        """Whether runs of a namespace would find what they need."""
        return await self._by_type[_type(target)].probe(target, namespace)

    def mark_new(self, run_key: str) -> None:
        """The key was made just now; the target may not be known yet."""
        for books in self._books.values():
            books.mark_new(run_key)

    def forget(self, run_key: str) -> None:
        """Nobody will ask for the key's runs again."""
        for books in self._books.values():
            books.forget(run_key)

    async def limit(self, address: RunAddress, seconds: float | None, now: datetime) -> None:
        """Have the target end live runs in time."""
        await self._books[_type(address.target)].limit(address, seconds, now)

    async def stop_strays(self, address: RunAddress) -> None:
        """Stop what still runs of them by itself."""
        await self._books[_type(address.target)].stop_strays(address)

    async def orphan(self, address: RunAddress) -> None:
        """Cut the runs loose."""
        await self._books[_type(address.target)].orphan(address)

    async def delete_for_gone_owner(
        self, kind: str, namespace: str, name: str, uid: str = "", claimed: Collection[str] = ()
    ) -> None:
        """The owner is gone: delete what is known of its runs."""
        for books in self._books.values():
            await books.delete_for_gone_owner(kind, namespace, name, uid, claimed)

    async def made_for(
        self, namespace: str, target: ComputeTargetSpec, install_id: str, *, fresh: bool = False
    ) -> list[Made]:
        """What this installation has made in a target outside of the cluster."""
        return await self._books[_type(target)].made_for(namespace, target, install_id, fresh=fresh)

    async def close(self) -> None:
        """End the background tasks."""
        for books in self._books.values():
            await books.close()


def _type(target: ComputeTargetSpec | None) -> str:
    return IN_CLUSTER if target is None else target.type

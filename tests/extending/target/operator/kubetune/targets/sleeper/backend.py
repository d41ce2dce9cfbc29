"""The sleeper's backend: the five calls of the contract; it needs no bookkeeping."""

from __future__ import annotations

from pathlib import Path

from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.sleeper import SleeperTarget
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.targets.errors import BackendError
from kubetune.targets.sleeper.attempts import Attempt
from kubetune.targets.values import RunAddress, RunRequest, RunState, TargetProbe


class SleeperBackend:
    """Runs as processes that sleep; see kubetune.targets.contract.Backend."""

    def __init__(self) -> None:
        self._attempts: dict[Path, Attempt] = {}

    async def observe(self, address: RunAddress) -> list[RunState]:
        """All attempts, oldest first."""
        return [attempt.state() for attempt in self._made(address)]

    async def ensure(self, request: RunRequest) -> RunState:
        """Start the attempt, or adopt it when it was started before."""
        block = _block(request.target)
        place = Path(block.folder)
        attempt = self._attempt(place / request.run_key / str(request.attempt))
        if not attempt.is_made:
            attempt.start(block.seconds, place / f"{request.plan['kind']}.json")
        return attempt.state()

    async def stop(self, address: RunAddress, *, unbegun: bool = False) -> None:
        """Stop all live runs; each begins as soon as it is made."""
        if unbegun:
            return
        for attempt in self._made(address):
            attempt.stop()

    async def delete(self, address: RunAddress) -> None:
        """Delete all runs and what they left."""
        for attempt in self._made(address):
            attempt.delete()
            self._attempts.pop(attempt.folder, None)

    async def probe(self, target: ComputeTargetSpec, namespace: str) -> TargetProbe:
        """Whether the folder is there."""
        return _probe(Path(_block(target).folder))

    def _made(self, address: RunAddress) -> list[Attempt]:
        folders = (Path(_block(address.target).folder) / address.run_key).glob("*")
        found = (self._attempt(folder) for folder in folders)
        return sorted(
            (attempt for attempt in found if attempt.is_made),
            key=lambda attempt: int(attempt.folder.name),
        )

    def _attempt(self, folder: Path) -> Attempt:
        # One that was started here is known by its process, which nobody else waits for.
        return self._attempts.setdefault(folder, Attempt(folder))


def _probe(folder: Path) -> TargetProbe:
    if not folder.is_dir():
        return TargetProbe(Reason.TARGET_REFUSED, f"there is no folder {folder}: make it")
    return TargetProbe(message=f"folder {folder} is there")


def _block(target: ComputeTargetSpec | None) -> SleeperTarget:
    if target is None or target.sleeper is None:
        raise BackendError(
            Reason.TARGET_MISSING, "the compute target is gone: make it again", retryable=True
        )
    return target.sleeper

"""Several processes that train together: how they meet, agree, and notice that one is gone.

Worker 0 leads: it alone reports, writes checkpoints, and uploads the result. A run with one
worker has nobody to ask, and torch.distributed is not imported for it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from kubetune.api.run.outcome import WORKER_LOST
from kubetune.api.run.plan import ENV_PEERS_AT, ENV_RENDEZVOUS, ENV_WORKER, RunPlan
from kubetune.api.training.settings import Strategy

from kubetune_runner.errors import RunError
from kubetune_runner.retrying import repeated

JOIN_SECONDS = 1800.0
"""For all workers to come, and for one to wait for the others while training."""
ENV_JOIN_SECONDS = "KUBETUNE_JOIN_SECONDS"
_LOST_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe")
_ARRIVED = "kubetune/arrived"
_PAUSE_SECONDS = 0.2

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """This process among those that train together."""

    size: int = 1
    rank: int = 0
    host: str = ""
    port: int = 0
    """Where the leader waits."""
    strategy: Strategy = "ddp"

    @staticmethod
    def of(plan: RunPlan) -> Workers:
        """The workers of a run, as plan and environment tell."""
        if plan.workers == 1:
            return SINGLE_WORKER
        try:
            rank = int(os.environ[ENV_WORKER])
            host, _, port = os.environ[ENV_RENDEZVOUS].rpartition(":")
            host = os.environ.get(ENV_PEERS_AT) or host
            return Workers(plan.workers, rank, host, int(port), plan.strategy or "ddp")
        except (KeyError, ValueError) as error:
            raise RunError(
                "PlanInvalid",
                f"the plan has {plan.workers} workers, and {ENV_WORKER} and {ENV_RENDEZVOUS} don't"
                f" say which one this is: {error}",
            ) from error

    @property
    def leads(self) -> bool:
        """Whether this one reports, writes and uploads."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def join(self) -> None:
        """Meet the others.

        Raises RunError WorkersMissing (retryable) when they don't come in time.
        """
        if not self.several:
            return
        import torch
        import torch.distributed as dist

        seconds = float(os.environ.get(ENV_JOIN_SECONDS, JOIN_SECONDS))
        end = time.monotonic() + seconds
        log.info("worker %d of %d: meeting at %s:%d", self.rank, self.size, self.host, self.port)
        store: Any = self._store(dist, end, timedelta(seconds=seconds))
        # In Python, where a signal can end it.
        arrived = store.add(_ARRIVED, 1)
        while arrived < self.size:
            if time.monotonic() >= end:
                raise self._missing(f"{arrived} of {self.size} came")
            time.sleep(_PAUSE_SECONDS)
            arrived = store.add(_ARRIVED, 0)
        # Under the names of torchrun, which the libraries read. Each worker has its own devices.
        os.environ |= {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=seconds),
        )

    def leave(self) -> None:
        """Let go of the others, once nothing is shared any more."""
        if self.several:
            import torch.distributed as dist

            dist.destroy_process_group()

    def agree(self, wish: bool) -> bool:
        """Whether any of the workers wishes it. All must ask."""
        if not self.several:
            return wish
        import torch
        import torch.distributed as dist

        wishes = torch.tensor([int(wish)])
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        return bool(wishes.item())

    def share(self, value: T) -> T:
        """The leader's value. All must ask."""
        if not self.several:
            return value
        import torch
        import torch.distributed as dist

        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def _store(self, dist: Any, end: float, timeout: timedelta) -> Any:
        if not self.leads:
            self._wait_for_leader(end)
        # The leader's own name may not be known to itself yet.
        host = "localhost" if self.leads else self.host
        try:
            return dist.TCPStore(
                host,
                self.port,
                self.size,
                is_master=self.leads,
                timeout=timeout,
                wait_for_workers=False,
            )
        except RuntimeError as error:
            raise self._missing(str(error).splitlines()[0][:300]) from error

    def _wait_for_leader(self, end: float) -> None:
        def connect() -> None:
            # The leader's name is unknown until its pod has an address.
            socket.create_connection((self.host, self.port), timeout=5).close()

        try:
            repeated(
                connect,
                may_pass=lambda error: isinstance(error, OSError),
                pause=lambda *_: _PAUSE_SECONDS,
                until=end,
            )
        except OSError as error:
            raise self._missing(str(error)) from error

    def _missing(self, why: str) -> RunError:
        return RunError(
            "WorkersMissing",
            f"the {self.size} workers didn't meet at {self.host}:{self.port} in time: {why}; see"
            " whether all of them run and reach each other",
            retryable=True,
        )


SINGLE_WORKER = Workers()


def lost(error: BaseException) -> RunError | None:
    """The end of this worker, when the error means that another one has ended."""
    import torch.distributed as dist

    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        known = isinstance(cause, dist.DistError) or (
            isinstance(cause, RuntimeError) and any(word in text.lower() for word in _LOST_WORDS)
        )
        if known:
            said = (text.splitlines() or [""])[0][:300]
            message = f"another worker has ended or can't be reached: {said}"
            return RunError(WORKER_LOST, message, retryable=True)
        cause = cause.__cause__
    return None

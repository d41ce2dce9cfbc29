"""Several processes that train together: how they meet, agree, and notice that one is gone.

Each worker has one process or several. The first one of worker 0 leads: it alone reports, writes
checkpoints, and uploads the result. A run with one process has nobody to ask, and
torch.distributed is not imported for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from kubetune.api.run.outcome import WORKER_LOST
from kubetune.api.run.plan import (
    ENV_PEERS_AT,
    ENV_PROCESS,
    ENV_RENDEZVOUS,
    ENV_WORKER,
    RunPlan,
)
from kubetune.api.training.settings import Strategy

from kubetune_runner.errors import RunError
from kubetune_runner.retrying import repeated

JOIN_SECONDS = 1800.0
"""For all workers to come, and for one to wait for the others while training."""
ENV_JOIN_SECONDS = "KUBETUNE_JOIN_SECONDS"
_LOST_WORDS = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe")
_ARRIVED = "kubetune/arrived"
_PAUSE_SECONDS = 0.2
_PORTS = range(20000, 30000)
"""Below those that a system gives away by itself, so that none is taken meanwhile."""
_TRIED_PORTS = 100

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """This process among those that train together."""

    size: int = 1
    """All of them."""
    rank: int = 0
    """Which one this is, from 0."""
    local_size: int = 1
    """Those of this worker, which share its GPUs, one for each."""
    local_rank: int = 0
    """Which of them this is, from 0."""
    host: str = ""
    port: int = 0
    """Where the leader waits."""
    strategy: Strategy = "ddp"

    @staticmethod
    def of(plan: RunPlan) -> Workers:
        """The workers of a run, as plan and environment tell."""
        if plan.world_size == 1:
            return SINGLE_WORKER
        return Workers.at(plan, _number(plan, ENV_PROCESS, plan.processes), rendezvous(plan))

    @staticmethod
    def at(plan: RunPlan, local: int, place: tuple[str, int]) -> Workers:
        """A process of this worker, that meets the others at ``place``."""
        host, port = place
        return Workers(
            size=plan.world_size,
            rank=worker_of(plan) * plan.processes + local,
            local_size=plan.processes,
            local_rank=local,
            host=host,
            port=port,
            strategy=plan.strategy or "ddp",
        )

    @property
    def leads(self) -> bool:
        """Whether this one reports, writes and uploads."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def variables(self) -> dict[str, str]:
        """What torchrun would set, which the libraries read."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.rank // self.local_size),
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
        }

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
        self._take_device(torch)
        log.info("rank %d of %d: meeting at %s:%d", self.rank, self.size, self.host, self.port)
        store: Any = self._store(dist, end, timedelta(seconds=seconds))
        # In Python, where a signal can end it.
        arrived = store.add(_ARRIVED, 1)
        while arrived < self.size:
            if time.monotonic() >= end:
                raise self._missing(f"{arrived} of {self.size} came")
            time.sleep(_PAUSE_SECONDS)
            arrived = store.add(_ARRIVED, 0)
        os.environ |= self.variables
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
        try:
            return dist.TCPStore(
                self.host,
                self.port,
                self.size,
                is_master=self.leads,
                timeout=timeout,
                wait_for_workers=False,
            )
        except RuntimeError as error:
            raise self._missing(str(error).splitlines()[0][:300]) from error

    def _take_device(self, torch: Any) -> None:
        """Have what is put on a GPU be put on this process' own."""
        if not torch.cuda.is_available():
            return
        seen = torch.cuda.device_count()
        if seen < self.local_size:
            raise RunError(
                "GpusMissing",
                f"{self.local_size} processes are to have a GPU each, and they see {seen}: set"
                f" resources.gpu to {seen}, or on a target whose GPU resource is a share of a GPU,"
                " such as a MIG profile, to 1 with more workers",
            )
        torch.cuda.set_device(self.local_rank)

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
            f"the {self.size} processes didn't meet at {self.host}:{self.port} in time: {why}; see"
            " whether all of them run and reach each other",
            retryable=True,
        )


SINGLE_WORKER = Workers()


def worker_of(plan: RunPlan) -> int:
    """Which worker this is, from 0. Raises RunError PlanInvalid."""
    return _number(plan, ENV_WORKER, plan.workers)


def rendezvous(plan: RunPlan) -> tuple[str, int]:
    """Host and port where the first process of worker 0 waits. Raises RunError PlanInvalid.

    Processes of one worker have a place that whoever starts them has chosen.
    """
    given = os.environ.get(ENV_RENDEZVOUS, "")
    if not given and plan.workers == 1:
        return "localhost", _free_port()
    host, _, port = given.rpartition(":")
    if not port.isdecimal():
        raise _unclear(plan, f"{ENV_RENDEZVOUS} is {given!r}")
    if worker_of(plan) == 0:
        # Its own name may not be known to itself yet.
        return "localhost", int(port)
    return os.environ.get(ENV_PEERS_AT) or host, int(port)


def _free_port() -> int:
    for port in random.sample(_PORTS, _TRIED_PORTS):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("localhost", port))
            return port
    raise RunError(
        "WorkersMissing", f"none of {_TRIED_PORTS} ports of this machine is free", retryable=True
    )


def _number(plan: RunPlan, variable: str, of: int) -> int:
    """Which of so many this is; there is no variable where there is only one."""
    text = os.environ.get(variable, "0" if of == 1 else "")
    if not text.isdecimal() or int(text) >= of:
        raise _unclear(plan, f"{variable} is {text!r}")
    return int(text)


def _unclear(plan: RunPlan, what: str) -> RunError:
    return RunError(
        "PlanInvalid",
        f"the plan has {plan.workers} workers with {plan.processes} processes each, and the"
        f" environment doesn't say which one this is: {what}",
    )


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

"""The Lease that one operator of several holds: it alone changes anything.

As in Kubernetes' own controllers: the holder renews it well inside its duration, and whoever has
seen no renewal for that long by its own clock may take it. The holder counts from before it asked,
the others from when they saw the answer, so it stops before another begins, without common clocks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import (
    ApiError,
    ForbiddenError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.names import MANAGED_BY

NAME = "kubetune"
KIND = "Lease"
RENEWALS = 5
"""In the duration of a lease."""
WAIT_SECONDS = 1.0
"""At most, between two looks of whoever waits for it: one that was let go of is taken soon."""
HELD_SHARE = 0.8
"""Of its duration a holder counts on: the rest is for clocks that differ in speed."""

UNREACHABLE = (ApiError, aiohttp.ClientError, TimeoutError)
"""How a request fails."""

logger = logging.getLogger(__name__)


class LeaseError(Exception):
    """The lease can't be used; the message says what to do."""


class LeaseTakenError(Exception):
    """Another operator has taken the lease."""


def awake() -> float:
    """Seconds that go on while a process, or its machine, is paused."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@dataclass(frozen=True)
class Identity:
    """A process, so that another on its machine can tell whether it still runs."""

    host: str
    namespace: str
    """Of process ids, as Linux numbers them; empty where they can't be told."""
    process: str
    """Id, and the time of its start."""

    @staticmethod
    def own() -> Identity:
        """That of this process."""
        try:
            namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
        except OSError:
            namespace = ""
        process = os.getpid()
        return Identity(socket.gethostname(), namespace, f"{process}-{_started(process)}")

    def __str__(self) -> str:
        return "_".join((self.host, self.namespace, self.process))

    def has_ended(self, holder: str) -> bool:
        """Whether a holder was a process of this machine, and is no more."""
        host, _, rest = holder.rpartition("_")[0].rpartition("_")
        process, _, started = holder.rpartition("_")[2].partition("-")
        if not self.namespace or (host, rest) != (self.host, self.namespace):
            return False
        return process.isdecimal() and started != _started(int(process))


def _started(process: int) -> str:
    """When a process of this machine began, in ticks since the boot; empty when it isn't there."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The name, in brackets, may have anything in it. A zombie does nothing more.
    fields = status.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


class Lease:
    """The lease of one installation, as one process sees it.

    ``client`` is for the lease alone: others may wait, or may not write without it.
    """

    def __init__(
        self,
        client: KubernetesClient,
        namespace: str,
        seconds: float,
        identity: Identity,
        clock: Callable[[], float] = awake,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._seconds = seconds
        self._identity = identity
        self._clock = clock
        self._until = float("-inf")
        self._seen: tuple[Any, float] = (None, 0.0)
        """What another's lease was like, and since when."""
        self._told = ""

    def held(self) -> bool:
        """Whether this process may change anything at this moment."""
        return self._clock() < self._until

    async def acquire(self) -> None:
        """Wait until the lease is ours. Raises LeaseError when it never can be."""
        while True:
            if await self.attempt(renewing=False):
                break
            await asyncio.sleep(min(WAIT_SECONDS, self._seconds / RENEWALS))
        logger.info("%s holds lease %s/%s", self._identity, self._namespace, NAME)

    async def keep(self) -> None:
        """Renew it for good. Raises LeaseTakenError once another process has it.

        While the API server is away it isn't held, and nobody else's either.
        """
        while True:
            await asyncio.sleep(self._seconds / RENEWALS)
            await self.attempt(renewing=True)

    async def close(self) -> None:
        """Let the next one begin at once, and close the connections."""
        if self.held():
            self._until = float("-inf")
            await self._release()
        await self._client.close()

    async def _release(self) -> None:
        try:
            found = await self._client.get(KIND, self._namespace, NAME)
            if found["spec"].get("holderIdentity") == str(self._identity):
                await self._write(found, {"holderIdentity": "", "leaseDurationSeconds": 1})
        except UNREACHABLE as error:
            logger.info("the lease runs out by itself: %s", error)

    async def attempt(self, *, renewing: bool) -> bool:
        """Take or renew it; False when it is another's, or can't be written now."""
        begun = self._clock()
        try:
            async with asyncio.timeout(self._seconds / 2):
                taken = await self._take(renewing=renewing)
        except UNREACHABLE as error:
            if isinstance(error, ForbiddenError) and not renewing:
                raise LeaseError(
                    f"lease {self._namespace}/{NAME} can't be used: {error}. Give the operator the"
                    " rights of manifests/install, or KUBETUNE_LEASE_SECONDS=0 where one runs"
                ) from error
            logger.warning("lease %s/%s can't be written: %s", self._namespace, NAME, error)
            return False
        if taken:
            self._until = begun + HELD_SHARE * self._seconds
        return taken

    async def _take(self, *, renewing: bool) -> bool:
        try:
            found = await self._client.get(KIND, self._namespace, NAME)
        except NotFoundError:
            return await self._make()
        spec: JsonObject = found.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder == str(self._identity):
            await self._write(found, {})
            return True
        if renewing:
            raise LeaseTakenError(
                f"lease {self._namespace}/{NAME} is {holder or 'nobody'}'s now: another operator"
                " goes on, and this one knows too little to begin again"
            )
        if holder and not self._identity.has_ended(holder) and not self._has_run_out(found):
            if self._told != holder:
                logger.info("%s has the lease: this operator waits, and does nothing", holder)
            self._told = holder
            return False
        turns = int(spec.get("leaseTransitions") or 0) + 1
        await self._write(
            found,
            {
                "holderIdentity": str(self._identity),
                "acquireTime": _now(),
                "leaseTransitions": turns,
            },
        )
        return True

    def _has_run_out(self, found: JsonObject) -> bool:
        """Whether its holder hasn't renewed it for its duration, by our clock."""
        version, since = self._seen
        if found["metadata"]["resourceVersion"] != version:
            self._seen = (found["metadata"]["resourceVersion"], self._clock())
            return False
        duration = float(found["spec"].get("leaseDurationSeconds") or self._seconds)
        return self._clock() - since > max(duration, self._seconds)

    async def _make(self) -> bool:
        try:
            await self._client.create(
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": KIND,
                    "metadata": {
                        "name": NAME,
                        "namespace": self._namespace,
                        "labels": MANAGED_BY,
                    },
                    "spec": {
                        "holderIdentity": str(self._identity),
                        "acquireTime": _now(),
                        **self._renewed(),
                    },
                }
            )
        except NotFoundError as error:
            raise LeaseError(
                f"namespace {self._namespace} is missing, which has the lease of the operator:"
                " create it, or name another one in KUBETUNE_OPERATOR_NAMESPACE"
            ) from error
        return True

    async def _write(self, found: JsonObject, spec: JsonObject) -> None:
        # The version makes this fail when somebody else was faster.
        metadata = {"resourceVersion": found["metadata"]["resourceVersion"]}
        patch = {"metadata": metadata, "spec": self._renewed() | spec}
        await self._client.patch(KIND, self._namespace, NAME, patch)

    def _renewed(self) -> JsonObject:
        return {"renewTime": _now(), "leaseDurationSeconds": max(1, round(self._seconds))}


class NoLease:
    """For an operator that is the only one: it may always change everything."""

    def held(self) -> bool:
        """Always."""
        return True

    async def acquire(self) -> None:
        """At once."""

    async def keep(self) -> None:
        """There is nothing to do, ever."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is open."""


def _now() -> str:
    """As Kubernetes writes times with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

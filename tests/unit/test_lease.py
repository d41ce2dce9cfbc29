"""The lease: never two operators that may write, whatever is paused, away or slow."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubetune.api import JsonObject
from kubetune.clients.kubernetes import (
    ApiError,
    ConflictError,
    ForbiddenError,
    KubernetesClient,
    NotFoundError,
)
from kubetune.clients.lease import Identity, Lease, LeaseError, LeaseTakenError

SECONDS = 10.0
ELSEWHERE = [Identity(f"node-{at}", "4026531836", "1-100") for at in range(3)]


@dataclass
class Leases:
    """An API server's leases: the version of a patch must be the present one."""

    stored: JsonObject | None = None
    version: int = 0
    away: bool = False
    forbidden: bool = False

    async def get(self, kind: str, namespace: str, name: str) -> JsonObject:
        self._check()
        if self.stored is None:
            raise NotFoundError(404, "NotFound", f"{kind} {namespace}/{name}")
        return {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(self.stored)}

    async def create(self, manifest: JsonObject) -> JsonObject:
        self._check()
        if self.stored is not None:
            raise ConflictError(409, "AlreadyExists", "")
        self._store(manifest["spec"])
        return manifest

    async def patch(self, kind: str, namespace: str, name: str, patch: JsonObject) -> JsonObject:
        self._check()
        if self.stored is None:
            raise NotFoundError(404, "NotFound", f"{kind} {namespace}/{name}")
        if patch["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError(409, "Conflict", "")
        self._store(self.stored | patch["spec"])
        return patch

    async def close(self) -> None:
        pass

    def _check(self) -> None:
        if self.forbidden:
            raise ForbiddenError(403, "Forbidden", "may not")
        if self.away:
            raise ApiError(503, "ServiceUnavailable", "away")

    def _store(self, spec: JsonObject) -> None:
        self.stored, self.version = spec, self.version + 1


@dataclass
class World:
    """Some operators with one API server and one clock."""

    leases: Leases = field(default_factory=Leases)
    now: float = 1000.0

    def operator(self, identity: Identity) -> Lease:
        client = cast("KubernetesClient", self.leases)
        return Lease(client, "system", SECONDS, identity, clock=lambda: self.now)


async def test_one_of_two_holds_it_and_the_other_follows_once_it_ran_out() -> None:
    world = World()
    first, second = (world.operator(identity) for identity in ELSEWHERE[:2])
    assert await first.attempt(renewing=False)
    assert not await second.attempt(renewing=False)
    for _ in range(5):
        world.now += 2
        assert await first.attempt(renewing=True)
        assert not await second.attempt(renewing=False)
    world.now += SECONDS
    assert not await second.attempt(renewing=False), "it has seen a renewal since"
    assert not first.held()
    world.now += SECONDS + 1
    assert await second.attempt(renewing=False)
    with pytest.raises(LeaseTakenError, match="node-1"):
        await first.attempt(renewing=True)
    assert not first.held()
    assert cast("JsonObject", world.leases.stored)["leaseTransitions"] == 1


async def test_it_is_let_go_of_at_the_end() -> None:
    world = World()
    first, second = (world.operator(identity) for identity in ELSEWHERE[:2])
    assert await first.attempt(renewing=False)
    await first.close()
    assert not first.held()
    assert await second.attempt(renewing=False)


async def test_while_the_api_server_is_away_it_runs_out_and_comes_back() -> None:
    world = World()
    lease = world.operator(ELSEWHERE[0])
    assert await lease.attempt(renewing=False)
    world.leases.away = True
    world.now += SECONDS
    assert not await lease.attempt(renewing=True)
    assert not lease.held()
    world.leases.away = False
    assert await lease.attempt(renewing=True)
    assert lease.held()


async def test_without_the_right_the_operator_says_what_to_do() -> None:
    world = World(Leases(forbidden=True))
    with pytest.raises(LeaseError, match="KUBETUNE_LEASE_SECONDS=0"):
        await world.operator(ELSEWHERE[0]).attempt(renewing=False)


async def test_a_process_of_this_machine_that_has_ended_keeps_nobody_waiting() -> None:
    own = Identity.own()
    pid = os.getpid()
    assert not own.has_ended(str(own))
    assert own.has_ended(str(Identity(own.host, own.namespace, f"{pid}-1"))), "another of this id"
    assert own.has_ended(str(Identity(own.host, own.namespace, "4194305-1")))
    assert not own.has_ended(str(Identity("elsewhere", own.namespace, "4194305-1")))
    assert not own.has_ended(str(Identity(own.host, "1", "4194305-1")))
    for odd in ("", "somebody", "a_b", f"{own.host}_{own.namespace}_", f"{own.host}__1-1"):
        assert not own.has_ended(odd)
    world = World()
    ended = world.operator(Identity(own.host, own.namespace, f"{pid}-1"))
    assert await ended.attempt(renewing=False)
    assert await world.operator(own).attempt(renewing=False)


STEPS = st.one_of(
    st.tuples(st.just("look"), st.integers(0, 2)),
    st.tuples(st.just("look"), st.integers(0, 1)),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 2.0, 7.9, 10.1, 21.0])),
    st.tuples(st.just("away"), st.booleans()),
    st.tuples(st.just("restart"), st.integers(0, 2)),
)


@settings(max_examples=300)
@given(st.lists(STEPS, min_size=4, max_size=40))
async def test_never_two_at_once(steps: list[tuple[str, Any]]) -> None:
    world = World()
    operators = [world.operator(identity) for identity in ELSEWHERE]
    led = [False] * len(operators)
    for what, given_ in steps:
        if what == "pass":
            world.now += given_
        elif what == "away":
            world.leases.away = given_
        elif what == "restart":
            operators[given_], led[given_] = world.operator(ELSEWHERE[given_]), False
        else:
            try:
                led[given_] |= await operators[given_].attempt(renewing=led[given_])
            except LeaseTakenError:
                operators[given_], led[given_] = world.operator(ELSEWHERE[given_]), False
        assert sum(operator.held() for operator in operators) <= 1

"""What looking at Secrets and claims costs, and what is read of them: by a client that counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from builders import target
from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.allowed import USE_LABEL
from kubetune.clients.kubernetes import ForbiddenError, NotFoundError
from kubetune.decide.consent import Lacking, Wanted
from kubetune.observe.consent import ASKED_AGAIN_SECONDS, KEPT_SECONDS, MOST_KEPT, Consents

CLAIM = Wanted("PersistentVolumeClaim", "disk", "data")
TOKEN = Wanted("Secret", "token", "hub", "key")


class Cluster:
    """Answers as the API server does."""

    def __init__(self) -> None:
        self.labels: dict[str, str | None] = {"disk": "data", "token": "hub"}
        self.keys = {"key": "a"}
        self.asked: list[str] = []
        self.forbidden = False

    async def metadata(self, kind: str, namespace: str, name: str) -> JsonObject:
        return self._answer("metadata", name)

    async def get(self, kind: str, namespace: str, name: str) -> JsonObject:
        return self._answer("whole", name) | {"data": self.keys}

    def _answer(self, how: str, name: str) -> JsonObject:
        self.asked.append(f"{how} {name}")
        if self.forbidden:
            raise ForbiddenError(403, "Forbidden", "no rights")
        if name not in self.labels:
            raise NotFoundError(404, "NotFound", name)
        uses = self.labels[name]
        return {"metadata": {"name": name, **({"labels": {USE_LABEL: uses}} if uses else {})}}


class Looks:
    """Consents by a clock that a test moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = Cluster()
        client: Any = self.cluster
        self._consents = Consents(client)
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def lacking(self, *wanted: Wanted) -> Lacking | None:
        return await self._consents.lacking("team", wanted, target().spec)

    async def reason(self, *wanted: Wanted) -> Reason | None:
        found = await self.lacking(*wanted)
        return found.reason if found else None


@pytest.fixture
async def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


async def test_a_claim_that_thousands_name_is_looked_at_once(looks: Looks) -> None:
    for _ in range(1000):
        assert await looks.lacking(CLAIM) is None
    assert looks.cluster.asked == ["metadata disk"]
    looks.now += KEPT_SECONDS
    assert await looks.lacking(CLAIM) is None
    assert looks.cluster.asked == ["metadata disk"] * 2


async def test_what_waits_for_a_label_asks_no_more_than_once_a_second(looks: Looks) -> None:
    looks.cluster.labels["disk"] = None
    for _ in range(1000):
        assert await looks.reason(CLAIM) == Reason.CONSENT_MISSING
    assert looks.cluster.asked == ["metadata disk"]
    looks.cluster.labels["disk"] = "checkpoint.data"
    looks.now += ASKED_AGAIN_SECONDS
    assert await looks.lacking(CLAIM) is None


async def test_no_value_is_read_of_a_secret_that_is_closed(looks: Looks) -> None:
    looks.cluster.labels["token"] = "judge.target"
    found = await looks.lacking(TOKEN)
    assert found
    assert found.reason == Reason.CONSENT_MISSING
    assert f"kubectl label secret token -n team {USE_LABEL}=judge.target.hub --overwrite" in str(
        found
    )
    assert looks.cluster.asked == ["metadata token"]
    looks.cluster.labels["token"] = "hub"
    looks.now += ASKED_AGAIN_SECONDS
    assert await looks.lacking(TOKEN) is None
    assert looks.cluster.asked == ["metadata token", "metadata token", "whole token"]
    for _ in range(10):
        assert await looks.lacking(TOKEN, TOKEN._replace(key="")) is None
    assert len(looks.cluster.asked) == 3


async def test_a_key_that_comes_later_is_found(looks: Looks) -> None:
    looks.cluster.keys = {}
    assert await looks.reason(TOKEN) == Reason.SECRET_MISSING
    looks.cluster.keys = {"key": "a"}
    looks.now += ASKED_AGAIN_SECONDS
    assert await looks.lacking(TOKEN) is None


async def test_what_is_not_there_or_may_not_be_read_is_told(looks: Looks) -> None:
    assert await looks.reason(CLAIM._replace(name="gone")) == Reason.CLAIM_MISSING
    assert await looks.reason(TOKEN._replace(name="gone")) == Reason.SECRET_MISSING
    account = Wanted("ServiceAccount", "gone", "target")
    assert await looks.reason(account) == Reason.SERVICE_ACCOUNT_MISSING
    looks.cluster.forbidden = True
    found = await looks.lacking(CLAIM)
    assert found
    assert found.reason == Reason.CONSENT_MISSING
    assert "no rights" in found.message


async def test_what_is_remembered_is_bounded(looks: Looks) -> None:
    for number in range(MOST_KEPT + 10):
        await looks.lacking(CLAIM._replace(name=f"disk-{number}"))
    assert len(looks._consents._seen) <= MOST_KEPT

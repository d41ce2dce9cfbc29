"""A model of kopf's watches: what of the API server's changes reaches the operator, and when.

kopf lists a kind, which shows what is there and tells nothing of what is gone, and watches it
from there; only the session, which is kubetune's own, sees that a list was complete. It handles
one event of an object at a time and leaves out those that a newer one has overtaken meanwhile. A
watch that breaks goes on where it was, unless the API server has forgotten that by then (410):
then everything is listed anew. A kind that isn't served is asked for until it is: that, too, the
session sees to, and kopf alone would give up.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from kubetune.api import JsonObject
from kubetune.clients.watching import Refusals
from kubetune.handlers import WATCHED, Backoffs, Feed

from tests.simulation.api_server import selects
from tests.simulation.discovery import NOT_FOUND, Discovery

if TYPE_CHECKING:
    from tests.simulation.world import World


LAGS = (0.01, 0.05, 0.2, 1.0)


class EndedError(Exception):
    """kopf got to see a 404: it watches the kind no more."""


class Watch:
    """The watch of one kind by one operator."""

    def __init__(self, world: World, feed: Feed, kind: str) -> None:
        self._world = world
        self._feed = feed
        self._kind = kind
        self._selector = WATCHED[kind]
        self._pending: dict[str, tuple[str, JsonObject]] = {}
        """What is on its way, by uid; the newest counts."""
        self._missed: list[tuple[str, JsonObject]] = []
        self._holds = 0
        self._forgotten = False
        self._refusals = Refusals("http://model", feed)
        self._asking: asyncio.Task[None] | None = None
        """While the kind isn't served."""
        self.closed = False

    def seen(self, event: str, body: JsonObject, old: JsonObject | None) -> None:
        """The API server has news."""
        if not self._fits(body):
            if old is None or not self._fits(old):
                return
            # With its labels it leaves the watch.
            event = "DELETED"
        if self._holds:
            self._missed.append((event, body))
        else:
            self._deliver_later(event, body)

    def hold(self, seconds: float, *, forget: bool) -> None:
        """Nothing comes through for a while; ``forget``: then everything is listed anew."""
        self._holds += 1
        self._forgotten |= forget
        if forget:
            # What was on its way is lost with the connection.
            self._pending.clear()
        self._world.later(seconds, self._go_on)

    def close(self) -> None:
        """The operator ends."""
        self.closed = True
        if self._asking:
            self._asking.cancel()

    def unserved(self) -> None:
        """The kind isn't served any more: the watch ends, and can't be continued."""
        if self._holds:
            self._forgotten = True
        else:
            self.list_anew()

    def list_anew(self) -> None:
        """Show everything that is there; what isn't goes unmentioned by single events."""
        if self._kind in self._world.server.unserved:
            if self._asking is None:
                self._asking = self._world.loop.create_task(self._until_served())
            return
        listed = [body for body in self._world.server.of_kind(self._kind) if self._fits(body)]
        version = self._world.server.version

        def arrive() -> None:
            if self.closed:
                return
            # What the session of the watches tells, as it reads the answer.
            self._feed.listed(self._kind, None, _uids(listed), version)
            for body in listed:
                if body["metadata"]["uid"] not in self._pending:
                    self._deliver_later("", body)

        self._world.later(self._world.draw.choice(LAGS), arrive)

    async def _until_served(self) -> None:
        scope = (self._kind, None)
        for pause in Backoffs():
            if self._kind not in self._world.server.unserved:
                break
            if not self._holds:
                try:
                    session: Any = Discovery(self._world.server)
                    await self._refusals.tell(scope, cast("Any", NOT_FOUND), session)
                except EndedError:
                    self._world.tell("watches", f"{self._kind} is watched no more")
                    self.closed = True
                    return
            await asyncio.sleep(pause)
        self._asking = None
        self._refusals.over(scope, watching=False)
        self._world.tell("watches", f"{self._kind} is served again")
        if self._holds:
            self._forgotten = True
        else:
            self.list_anew()

    def _fits(self, body: JsonObject) -> bool:
        return not self._selector or selects(self._selector, body)

    def _go_on(self) -> None:
        self._holds -= 1
        if self._holds or self.closed:
            return
        missed, self._missed = self._missed, []
        if self._forgotten:
            self._forgotten = False
            self._world.tell("watches", f"{self._kind} is listed anew")
            self.list_anew()
            return
        for event, body in missed:
            self._deliver_later(event, body)

    def _deliver_later(self, event: str, body: JsonObject) -> None:
        uid = body["metadata"]["uid"]
        on_its_way = uid in self._pending
        self._pending[uid] = (event, body)
        if not on_its_way:
            self._world.later(self._world.draw.choice(LAGS), lambda: self._deliver(uid))

    def _deliver(self, uid: str) -> None:
        if self.closed or uid not in self._pending:
            return
        event, body = self._pending.pop(uid)
        # The cache changes what it is given.
        copied = {"metadata": dict(body["metadata"]), "spec": dict(body.get("spec") or {})}
        given = {**body, **copied, "kind": self._kind}
        if event == "DELETED":
            self._feed.gone(given)
        else:
            self._feed.seen(given)


def _uids(listed: list[JsonObject]) -> dict[tuple[str, str], str]:
    """The uids of what a list has, by namespace and name."""
    return {
        (metadata.get("namespace", ""), metadata["name"]): metadata["uid"]
        for metadata in (body["metadata"] for body in listed)
    }

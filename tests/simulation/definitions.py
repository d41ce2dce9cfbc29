"""A model of the CRDs of kubetune's kinds: deleted and made again, as a reinstallation does.

Deleting a CRD deletes its objects, and waits for their finalizers; meanwhile nothing new is
taken. Then the kind isn't served, and watches of it end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError

from tests.simulation.api_server import error

if TYPE_CHECKING:
    from tests.simulation.world import World


LOOK_AGAIN_SECONDS = 5.0


class Definitions:
    """Which of kubetune's kinds there are."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._server = world.server
        self.observers: list[Callable[[str], None]] = []
        """Called with a kind that isn't served any more."""

    def delete(self, kind: str) -> None:
        """DELETE of the CRD."""
        if kind in self._server.unserved:
            raise error(404, "NotFound", f"the CRD of {kind} is not found")
        if kind not in self._server.ending:
            self._world.tell("users", f"delete the CRD of {kind}")
            self._server.ending.add(kind)
            self._world.soon(lambda: self._empty(kind))

    def create(self, kind: str) -> None:
        """POST of the CRD."""
        if kind not in self._server.unserved:
            raise error(409, "AlreadyExists", f"the CRD of {kind} already exists")
        self._world.tell("users", f"make the CRD of {kind} again")
        self._server.unserved.discard(kind)

    def _empty(self, kind: str) -> None:
        left = self._server.of_kind(kind)
        if not left:
            self._world.tell("CRDs", f"{kind} is not served any more")
            self._server.ending.discard(kind)
            self._server.unserved.add(kind)
            for observer in list(self.observers):
                observer(kind)
            return
        for body in left:
            metadata: JsonObject = body["metadata"]
            if "deletionTimestamp" not in metadata:
                with contextlib.suppress(ApiError):
                    self._server.delete(kind, metadata.get("namespace", ""), metadata["name"])
        self._world.later(LOOK_AGAIN_SECONDS, lambda: self._empty(kind))

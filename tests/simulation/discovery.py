"""What the session of the watches asks of the API server when a kind isn't served."""

from __future__ import annotations

import json
from typing import Any

from kubetune.api import API_VERSION, JsonObject
from kubetune.api.kinds.table import KINDS
from kubetune.clients.watching import OUR_KINDS_PATH

from tests.simulation.api_server import ApiServer


class Answer:
    """As much of an aiohttp response as is read."""

    def __init__(self, status: int, body: str) -> None:
        self.status = status
        self.headers = {"Content-Type": "text/plain" if status == 404 else "application/json"}
        self._body = body

    async def __aenter__(self) -> Answer:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def text(self) -> str:
        """What it says."""
        return self._body

    async def read(self) -> bytes:
        """The same."""
        return self._body.encode()


NOT_FOUND = Answer(404, "404 page not found")


class Discovery:
    """In place of the aiohttp session: which groups and kinds are served."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def get(self, url: str, **_: Any) -> Answer:
        """Answer a question by its path."""
        served = [kind.kind for kind in KINDS if kind.kind not in self._server.unserved]
        if url.endswith(OUR_KINDS_PATH):
            if not served:
                return NOT_FOUND
            resources = [{"kind": kind} for kind in served]
            return _answer({"kind": "APIResourceList", "resources": resources})
        versions = [{"groupVersion": API_VERSION}] if served else []
        return _answer({"kind": "APIGroupList", "groups": [{"versions": versions}]})


def _answer(body: JsonObject) -> Answer:
    return Answer(200, json.dumps(body))

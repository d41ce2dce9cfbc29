"""What a watch shows while the API server comes and goes: nothing is left out that it can tell."""

from __future__ import annotations

import http.client
import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.cluster.api_client import administrator

SILENCE_SECONDS = 20
PAUSE_SECONDS = 0.05
GONE = 410

Seen = Callable[[str, dict[str, Any]], None]
"""Called with the type of an event and the object."""


class Watch:
    """One collection, listed and watched by a thread of its own, for as long as the block lasts.

    It goes on from the last version that it has seen. Where that is too old it lists anew, and
    tells of what is gone by then as deleted.
    """

    def __init__(self, kubeconfig: Path, path: str, seen: Seen) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        with tempfile.TemporaryDirectory() as folder:
            self._context = administrator(config, Path(folder))
        self._address = urlsplit(config["clusters"][0]["cluster"]["server"]).netloc
        self._path, self._seen = path, seen
        self._there: dict[str, dict[str, Any]] = {}
        self._version = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)
        self.relists = 0
        """How often it could not go on from where it was."""

    def __enter__(self) -> Watch:
        self._list()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._version:
                    self.relists += 1
                    self._list()
                self._follow()
            except (OSError, http.client.HTTPException, ValueError):
                self._stop.wait(PAUSE_SECONDS)

    def _connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            self._address, context=self._context, timeout=SILENCE_SECONDS
        )

    def _list(self) -> None:
        connection = self._connection()
        try:
            connection.request("GET", self._path)
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != http.client.OK:
                raise OSError(f"{self._path} can't be listed: {answer.get('message')}")
        finally:
            connection.close()
        listed = {body["metadata"]["uid"]: body for body in answer["items"]}
        for uid in self._there.keys() - listed.keys():
            self._tell("DELETED", self._there[uid])
        for uid, body in listed.items():
            known = self._there.get(uid)
            if known is None or _version(known) != _version(body):
                self._tell("MODIFIED" if known else "ADDED", body)
        self._version = answer["metadata"]["resourceVersion"]

    def _follow(self) -> None:
        connection = self._connection()
        query = f"?watch=true&allowWatchBookmarks=true&resourceVersion={self._version}"
        try:
            connection.request("GET", f"{self._path}{query}&timeoutSeconds={SILENCE_SECONDS // 2}")
            response = connection.getresponse()
            if response.status == GONE:
                self._version = ""
            if response.status != http.client.OK:
                raise OSError(f"{self._path} can't be watched: {response.status}")
            while (line := response.readline()) and not self._stop.is_set():
                self._take(json.loads(line))
        finally:
            connection.close()

    def _take(self, event: dict[str, Any]) -> None:
        body = event["object"]
        if event["type"] == "ERROR":
            if body.get("code") == GONE:
                self._version = ""
            raise OSError(body.get("message"))
        self._version = _version(body)
        if event["type"] != "BOOKMARK":
            self._tell(event["type"], body)

    def _tell(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "DELETED":
            self._there.pop(body["metadata"]["uid"], None)
        else:
            self._there[body["metadata"]["uid"]] = body
        self._seen(kind, body)


def _version(body: dict[str, Any]) -> str:
    return body["metadata"]["resourceVersion"]

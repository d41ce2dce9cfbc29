"""The wiring of kopf: every trigger of the operator, and nothing else.

kopf lists and watches; its session, clients/watching.py, hands each object to the Feed, which puts
it into the cache and keys into the work queue. There are no kopf indices: observe/watches.py says
why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import kopf

from kubetune.api import GROUP, VERSION, JsonObject
from kubetune.api.kinds.table import BY_KIND, KINDS, RECONCILED
from kubetune.clients.watching import WatchSession, open_watch_session
from kubetune.metrics import LAST_EVENT
from kubetune.names import RUN_KEY
from kubetune.observe.cache import ObjectCache, key_of, owner_key
from kubetune.observe.references import DEFAULT_TARGETS, TARGET_KINDS
from kubetune.observe.watches import Scope, Watches
from kubetune.queue import Key, WorkQueue

logger = logging.getLogger(__name__)

KUBERNETES_KINDS = {
    ("batch", "v1", "jobs"): "Job",
    ("", "v1", "pods"): "Pod",
    ("", "v1", "configmaps"): "ConfigMap",
}
# Of the cluster's own kinds only what is ours, and the ConfigMaps that a Dataset may name.
SELECTORS = {"jobs": RUN_KEY, "pods": RUN_KEY, "configmaps": f"!{RUN_KEY}"}
WATCHED = {kind.kind: "" for kind in KINDS} | {
    kind: SELECTORS[plural] for (_, _, plural), kind in KUBERNETES_KINDS.items()
}
"""Label selectors by kind, empty for all objects."""

PASSED_ON = ("Model", "TuningProfile")
"""A job depends on the base of the adapter that it names, and on its profile's ConfigMap."""


PAGE = 250
"""What is decoded at once stays with the process for good."""
LONGEST_WAIT_SECONDS = 8


def scopes(namespaces: Sequence[str]) -> Iterator[Scope]:
    """What is watched: kinds in these namespaces, or in the whole cluster when there are none."""
    for kind in WATCHED:
        namespaced = kind not in BY_KIND or BY_KIND[kind].namespaced
        for namespace in namespaces if namespaces and namespaced else (None,):
            yield kind, namespace


class Feed:
    """Puts what the watches show into cache and queue."""

    def __init__(
        self, cache: ObjectCache, queue: WorkQueue, namespaces: Sequence[str] = ()
    ) -> None:
        self.watches = Watches(scopes(namespaces))
        self._cache = cache
        self._queue = queue
        cache.on_change = self._wake

    def seen(self, body: JsonObject) -> None:
        """An object appeared or changed."""
        LAST_EVENT.set(time.time())
        self._cache.put(body, ours=False)
        self.watches.seen(key_of(body))

    def gone(self, body: JsonObject) -> None:
        """An object was deleted."""
        self._cache.remove(body)
        self._wake(body, ours=False)
        self.watches.seen(key_of(body))

    def listed(
        self, kind: str, namespace: str | None, found: Mapping[tuple[str, str], str], version: int
    ) -> None:
        """A watch was started, or restarted, with a list: what that hasn't is gone.

        Of ``namespace`` or, when None, of the whole cluster. ``found`` has uids by namespace and
        name, ``version`` is the list's resourceVersion. The watch itself tells of deletions only
        while it lasts.
        """
        LAST_EVENT.set(time.time())
        self._lose(self._cache.missing(kind, namespace, found, version), version)
        keys = (Key(kind, *name) for name in found)
        self.watches.listed((kind, namespace), (key for key in keys if not self._cache.has(key)))

    def not_served(self, kind: str, namespace: str | None) -> None:
        """The kind isn't installed: its objects went with its CRD."""
        # With no version from which on they could come back: a list has the last word.
        self._lose(self._cache.of_kind(kind, namespace), -1)
        self.watches.listed((kind, namespace), ())

    def forbidden(self, kind: str, namespace: str | None) -> None:
        """The operator may not see these objects: what it knows of them stays, the rest waits."""
        self.watches.listed((kind, namespace), ())

    def shown(self, kind: str, namespace: str | None) -> None:
        """An answer, an event or a bookmark came."""
        self.watches.shown((kind, namespace))

    def _lose(self, lost: list[JsonObject], version: int) -> None:
        for body in lost:
            self._cache.remove(body, version)
        if lost:
            logger.info("%d %s are gone, which no watch has told", len(lost), lost[0]["kind"])
        for body in lost:
            self._wake(body, ours=False)

    def _wake(self, body: JsonObject, ours: bool) -> None:
        key = key_of(body)
        if not ours:
            if key.kind in RECONCILED:
                self._queue.add(key)
            elif (owner := owner_key(body)) and owner.kind in RECONCILED:
                # Anybody may put our labels on an object.
                self._queue.add(owner)
            if (named := self._cache.controller_key(body)) and named.kind in RECONCILED:
                # Of another namespace, where nobody's run is: it is to be told of that.
                self._queue.add(named)
        self._queue.add_all(self._dependents(key))
        if key.kind in TARGET_KINDS:
            if not ours:
                # Several of them may be default.
                self._queue.add_all(self._cache.keys(key.kind, key.namespace))
            self._queue.add_all(
                dependent
                for dependent in self._cache.dependents(Key(TARGET_KINDS[0], "", DEFAULT_TARGETS))
                if key.namespace in ("", dependent.namespace)
            )

    def _dependents(self, key: Key) -> Iterator[Key]:
        """Who names an object, itself or through what it names: see PASSED_ON."""
        for other in self._cache.dependents(key):
            if other.kind in RECONCILED:
                yield other
            if other.kind in PASSED_ON:
                yield from (job for job in self._cache.dependents(other) if job.kind in RECONCILED)


def build_registry(feed: Feed) -> kopf.OperatorRegistry:
    """Handlers for all kinds, in a registry of their own."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> WatchSession:
        return open_watch_session(WATCHED, feed)

    async def watched(**_: Any) -> None:
        """kopf watches what has a handler; its session has handed the object on already."""

    ours = [(GROUP, VERSION, kind.plural) for kind in KINDS]
    for resource in (*ours, *KUBERNETES_KINDS):
        kopf.on.event(*resource, registry=registry, id=resource[-1])(watched)
    return registry


def build_settings(silence: float) -> kopf.OperatorSettings:
    """kopf's settings: watches that notice silence. It sees no objects, so the rest is its own."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.level = logging.ERROR
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = Backoffs()
    settings.watching.inactivity_timeout = silence
    # Belt and braces, besides the inactivity timeout: watches are renewed at least this often.
    settings.watching.server_timeout = 600
    settings.watching.chunk_size = PAGE
    # Our kinds are known, and the session says so: clients/watching.py.
    settings.scanning.disabled = True
    for plural, selector in SELECTORS.items():
        settings.watching.label_selectors[plural] = selector
    return settings


class Backoffs:
    """Seconds between attempts: without end, since kopf ends when they do, and never long."""

    def __iter__(self) -> Iterator[float]:
        """1, 2, 4, 8, 8 ..."""
        seconds = 1
        while True:
            yield seconds
            seconds = min(2 * seconds, LONGEST_WAIT_SECONDS)

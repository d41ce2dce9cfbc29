"""Objects as the watches and our own writes show them, with the look-ups that observe needs.

Bodies are plain dicts without managedFields. A write's answer is put here at once, so the
next reconcile doesn't have to wait for the watch; an older version never replaces a newer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from kubetune.names import OWNER_KIND, OWNER_NAME
from kubetune.observe.references import references
from kubetune.queue import Key

JsonObject = dict[str, Any]
CHILD_KINDS = frozenset({"Job", "Pod"})


class ObjectCache:
    """All watched objects by kind, namespace and name."""

    def __init__(self) -> None:
        self.on_change: Callable[[JsonObject, bool], None] = lambda body, ours: None
        """Called with each object that is new here, and whether the change is our own write."""
        self._objects: dict[Key, JsonObject] = {}
        self._children: dict[str, dict[Key, JsonObject]] = defaultdict(dict)
        """Jobs and pods by the uid of their controlling owner."""
        self._references: dict[Key, frozenset[Key]] = {}
        self._dependents: dict[Key, set[Key]] = defaultdict(set)
        """Referenced key -> keys of the objects that name it."""

    def get(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        """The object, or None."""
        return self._objects.get(Key(kind, namespace, name))

    def of_kind(self, kind: str, namespace: str | None = None) -> list[JsonObject]:
        """All objects of a kind, of one namespace or all."""
        return [
            body
            for key, body in self._objects.items()
            if key.kind == kind and namespace in (None, key.namespace)
        ]

    def jobs(self, owner_uid: str) -> list[JsonObject]:
        """The batch Jobs that an object controls."""
        return self._owned("Job", owner_uid)

    def pods(self, job_uid: str) -> list[JsonObject]:
        """The pods of a batch Job."""
        return self._owned("Pod", job_uid)

    def dependents(self, key: Key) -> Iterable[Key]:
        """Objects that name this one, whether it exists or not."""
        return tuple(self._dependents.get(key, ()))

    def put(self, body: JsonObject, *, ours: bool = True) -> bool:
        """Store an object; False when the stored one is as new or newer.

        ``ours`` is the answer to our own write: who wrote it doesn't have to be told of it.
        """
        key = key_of(body)
        known = self._objects.get(key)
        if known is not None and not _newer(body, known):
            return False
        body["metadata"].pop("managedFields", None)
        if known is not None:
            self._unlink(key, known)
        self._objects[key] = body
        if owner := controller_uid(body):
            self._children[owner][key] = body
        named = references(key, body)
        if named:
            self._references[key] = named
            for other in named:
                self._dependents[other].add(key)
        self.on_change(body, ours)
        return True

    def remove(self, body: JsonObject) -> None:
        """Forget a deleted object, unless another of its name has taken its place."""
        key = key_of(body)
        known = self._objects.get(key)
        if known is None or known["metadata"]["uid"] != body["metadata"]["uid"]:
            return
        self._unlink(key, known)
        del self._objects[key]

    def _unlink(self, key: Key, body: JsonObject) -> None:
        owner = controller_uid(body)
        if owner and owner in self._children:
            self._children[owner].pop(key, None)
            if not self._children[owner]:
                del self._children[owner]
        for other in self._references.pop(key, frozenset()):
            self._dependents[other].discard(key)
            if not self._dependents[other]:
                del self._dependents[other]

    def _owned(self, kind: str, owner_uid: str) -> list[JsonObject]:
        return [body for key, body in self._children.get(owner_uid, {}).items() if key.kind == kind]


def key_of(body: JsonObject) -> Key:
    """The key of an object."""
    metadata = body["metadata"]
    return Key(body["kind"], metadata.get("namespace", ""), metadata["name"])


def owner_key(body: JsonObject) -> Key | None:
    """The kubetune object that a Job or pod was made for."""
    metadata = body["metadata"]
    kind = metadata.get("labels", {}).get(OWNER_KIND)
    name = metadata.get("annotations", {}).get(OWNER_NAME)
    return Key(kind, metadata.get("namespace", ""), name) if kind and name else None


def controller_uid(body: JsonObject) -> str | None:
    """The uid of a child's controlling owner."""
    if body["kind"] not in CHILD_KINDS:
        return None
    for owner in body["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            return str(owner["uid"])
    return None


def _newer(body: JsonObject, known: JsonObject) -> bool:
    # Also between an object and its successor of the same name, whose version is higher.
    # Comparable since Kubernetes 1.35; before, they were etcd's increasing revisions anyway.
    return int(body["metadata"]["resourceVersion"]) > int(known["metadata"]["resourceVersion"])

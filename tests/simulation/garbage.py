"""Models of the garbage collector and of the namespace controller."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError

from tests.simulation.api_server import FOREGROUND, ORPHAN
from tests.simulation.kinds import BY_NAME

if TYPE_CHECKING:
    from tests.simulation.world import World


class GarbageCollector:
    """Deletes what lost its owners, and sees to foreground and orphaning deletions."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._server = world.server
        world.server.observers.append(self._seen)

    def _seen(self, kind: str, body: JsonObject, old: JsonObject | None) -> None:
        metadata: JsonObject = body["metadata"]
        uid: str = metadata["uid"]
        if kind == "DELETED":
            if self._server.children.get(uid):
                self._world.soon(lambda: self._collect(uid))
            for owner in (old or body)["metadata"].get("ownerReferences") or ():
                # Perhaps the last one that its owner's deletion waited for.
                self._world.soon(lambda owner=owner["uid"]: self._foreground(owner))
            return
        if "deletionTimestamp" in metadata and (old is None or old["metadata"] != metadata):
            finalizers: list[str] = metadata.get("finalizers") or []
            if FOREGROUND in finalizers:
                self._world.soon(lambda: self._foreground(uid))
            elif ORPHAN in finalizers:
                self._world.soon(lambda: self._orphan(uid))
        owners: Any = metadata.get("ownerReferences") or ()
        if kind == "ADDED" and any(owner["uid"] not in self._server.uids for owner in owners):
            self._world.soon(lambda: self._collect(owners[0]["uid"]))

    def _collect(self, owner: str) -> None:
        """An owner is gone: its dependents follow, unless another owner lives."""
        for item in self._server.owned_by(owner):
            owners = item["metadata"].get("ownerReferences") or ()
            if any(reference["uid"] in self._server.uids for reference in owners):
                continue
            if "deletionTimestamp" not in item["metadata"]:
                self._delete(item, "Background")

    def _foreground(self, uid: str) -> None:
        owner = self._find(uid, FOREGROUND)
        if owner is None:
            return
        dependents = self._server.owned_by(uid)
        for item in dependents:
            if "deletionTimestamp" not in item["metadata"]:
                further = self._server.owned_by(item["metadata"]["uid"])
                self._delete(item, "Foreground" if further else "Background")
        # Only those hold the owner that say so.
        holding = [
            item
            for item in self._server.owned_by(uid)
            for reference in item["metadata"]["ownerReferences"]
            if reference["uid"] == uid and reference.get("blockOwnerDeletion")
        ]
        if not holding:
            self._release(owner, FOREGROUND)

    def _orphan(self, uid: str) -> None:
        owner = self._find(uid, ORPHAN)
        if owner is None:
            return
        for item in self._server.owned_by(uid):
            metadata: JsonObject = item["metadata"]
            kept = [other for other in metadata["ownerReferences"] if other["uid"] != uid]
            self._patch(item, {"ownerReferences": kept or None})
        self._release(owner, ORPHAN)

    def _find(self, uid: str, finalizer: str) -> JsonObject | None:
        key = self._server.uids.get(uid)
        body = self._server.objects[key] if key else None
        if body is None or finalizer not in (body["metadata"].get("finalizers") or ()):
            return None
        return body

    def _release(self, body: JsonObject, finalizer: str) -> None:
        kept = [name for name in body["metadata"]["finalizers"] if name != finalizer]
        self._patch(body, {"finalizers": kept or None})

    def _patch(self, body: JsonObject, metadata: JsonObject) -> None:
        named = body["metadata"]
        key = (body["kind"], named.get("namespace", ""), named["name"])
        self._server.patch(*key, {"metadata": metadata})

    def _delete(self, body: JsonObject, policy: str) -> None:
        named = body["metadata"]
        key = (body["kind"], named.get("namespace", ""), named["name"])
        self._world.tell("garbage", f"deletes {key[0]} {key[2]}")
        self._server.delete(*key, policy, named["uid"])


class NamespaceController:
    """Empties a namespace that is being deleted, in any order, and then lets it go."""

    def __init__(self, world: World) -> None:
        self._world = world
        world.server.observers.append(self._seen)

    def _seen(self, kind: str, body: JsonObject, old: JsonObject | None) -> None:
        if body["kind"] != "Namespace" or "deletionTimestamp" not in body["metadata"]:
            return
        if kind == "MODIFIED":
            self._world.soon(lambda: self._empty(body["metadata"]["name"]))

    def _empty(self, namespace: str) -> None:
        server = self._world.server
        space = server.find("Namespace", "", namespace)
        if space is None:
            return
        inside = [key for key in server.objects if key[1] == namespace]
        if not inside:
            self._world.tell("namespaces", f"{namespace} is gone")
            server.patch("Namespace", "", namespace, {"metadata": {"finalizers": None}})
            return
        kinds = [name for name in BY_NAME if any(key[0] == name for key in inside)]
        self._world.draw.shuffle(kinds)
        for at, kind in enumerate(kinds):
            keys = [key for key in inside if key[0] == kind]
            self._world.later(at * self._world.draw.random(), lambda keys=keys: self._delete(keys))
        self._world.later(5.0, lambda: self._empty(namespace))

    def _delete(self, keys: list[tuple[str, str, str]]) -> None:
        for key in keys:
            body = self._world.server.objects.get(key)
            if body is not None and "deletionTimestamp" not in body["metadata"]:
                self._world.tell("namespaces", f"deletes {key[0]} {key[2]}")
                with contextlib.suppress(ApiError):
                    self._world.server.delete(*key, "Background")

"""A model of the API server: objects in memory, changed by the rules of Kubernetes.

Objects are never changed in place, so whoever holds one may keep it. What is asked raises the
errors of the operator's own client.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)
from kubetune.observe.references import TARGET_KINDS

from tests.simulation.defaults import with_defaults
from tests.simulation.kinds import BY_NAME, Kind, parse_path
from tests.simulation.patches import merged, patched

Key = tuple[str, str, str]
"""Kind, namespace ("" for cluster-wide kinds) and name."""

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
POD_GRACE_SECONDS = 30
_ERRORS: dict[int, type[ApiError]] = {
    400: InvalidError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidError,
}
# What a client can't change.
_SERVERS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def error(status: int, reason: str, message: str) -> ApiError:
    """An error as the client raises it."""
    return _ERRORS.get(status, ApiError)(status, reason, message)


class ApiServer:
    """All objects, and what clients may do to them."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self.objects: dict[Key, JsonObject] = {}
        self.uids: dict[str, Key] = {}
        self.children: dict[str, dict[Key, None]] = defaultdict(dict)
        """Objects by the uids of their owners."""
        self.version = 1000
        self.ending: set[str] = set()
        """Kinds whose CRD is being deleted; see ``definitions``."""
        self.unserved: set[str] = set()
        """Kinds whose CRD is gone."""
        self.admission: list[Callable[[str, JsonObject], JsonObject]] = []
        """Called with CREATE or UPDATE and the new object: returns what becomes of it, or raises
        what refuses it."""
        self.observers: list[Callable[[str, JsonObject, JsonObject | None], None]] = []
        """Called with ADDED, MODIFIED or DELETED, the object, and the one before."""

    # --- reading

    def find(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        """An object, or None."""
        return self.objects.get((kind, namespace, name))

    def get(self, kind: str, namespace: str, name: str) -> JsonObject:
        """An object that must be there."""
        found = self.objects.get((kind, namespace, name))
        if found is None:
            raise error(404, "NotFound", f"{BY_NAME[kind].plural} {name!r} not found")
        return found

    def of_kind(self, kind: str, selector: str = "") -> list[JsonObject]:
        """All objects of a kind that a label selector fits."""
        found = [body for (of_kind, _, _), body in self.objects.items() if of_kind == kind]
        return [body for body in found if selects(selector, body)] if selector else found

    def owned_by(self, uid: str, kind: str | None = None) -> list[JsonObject]:
        """What names this owner."""
        keys = self.children.get(uid, ())
        return [self.objects[key] for key in keys if kind in (None, key[0])]

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> JsonObject:
        """One request as it comes over the network."""
        try:
            named = parse_path(path)
        except KeyError:
            raise error(404, "NotFound", "the server could not find the resource") from None
        kind, namespace, name = named.kind.name, named.namespace, named.name
        match method:
            case "GET" if name:
                return self.get(kind, namespace, name)
            case "GET":
                return self._list(kind, namespace, query or {})
            case "POST":
                return self.create(body, namespace)
            case "PUT":
                return self.replace(kind, namespace, name, body, named.subresource)
            case "PATCH":
                return self.patch(kind, namespace, name, body, named.subresource)
            case "DELETE":
                options: JsonObject = body or {}
                uid = (options.get("preconditions") or {}).get("uid")
                return self.delete(kind, namespace, name, options.get("propagationPolicy"), uid)
            case _:
                raise error(405, "MethodNotAllowed", f"{method} {content_type}")

    def _list(self, kind: str, namespace: str, query: Mapping[str, str]) -> JsonObject:
        if kind in self.unserved:
            raise _not_served()
        fields = [term.partition("=") for term in query.get("fieldSelector", "").split(",") if term]
        items = [
            item
            for item in self.of_kind(kind, query.get("labelSelector", ""))
            if namespace in ("", item["metadata"].get("namespace"))
            and all(_field(item, path) == value for path, _, value in fields)
        ]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": items}

    # --- writing

    def create(self, body: JsonObject, namespace: str = "") -> JsonObject:
        """Make an object."""
        kind = BY_NAME[body["kind"]]
        if kind.name in self.unserved:
            raise _not_served()
        if kind.name in self.ending:
            message = "create not allowed while custom resource definition is terminating"
            raise error(405, "MethodNotAllowed", message)
        metadata: JsonObject = body["metadata"]
        namespace = (metadata.get("namespace") or namespace) if kind.namespaced else ""
        key = (kind.name, namespace, metadata["name"])
        if kind.namespaced:
            self._namespace_takes(kind, key)
        for check in self.admission:
            body = check("CREATE", body)
        if key in self.objects:
            raise error(409, "AlreadyExists", f"{kind.plural} {key[2]!r} already exists")
        self.version += 1
        # By version and name, so that a seed tells the same story again.
        uid = f"{zlib.crc32(key[2].encode()):08x}-{self.version}"
        made: JsonObject = {
            **({"namespace": namespace} if namespace else {}),
            "uid": uid,
            "resourceVersion": str(self.version),
            "creationTimestamp": self.timestamp(),
            **({"generation": 1} if kind.generation else {}),
        }
        given = {key: value for key, value in metadata.items() if key not in _SERVERS}
        new = with_defaults({**body, "metadata": given | made})
        if kind.status:
            new.pop("status", None)
        self._store(key, new, None)
        return new

    def replace(
        self, kind: str, namespace: str, name: str, body: JsonObject, subresource: str = ""
    ) -> JsonObject:
        """PUT."""
        old = self.get(kind, namespace, name)
        if body["metadata"].get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise error(409, "Conflict", "Precondition failed: UID in precondition")
        if BY_NAME[kind].custom and not body["metadata"].get("resourceVersion"):
            message = (
                "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
            )
            raise error(422, "Invalid", message)
        return self._update(old, body, subresource)

    def patch(
        self, kind: str, namespace: str, name: str, patch: Any, subresource: str = ""
    ) -> JsonObject:
        """A merge patch (a dict) or a JSON patch (a list)."""
        old = self.get(kind, namespace, name)
        try:
            new = patched(old, patch) if isinstance(patch, list) else merged(old, patch)
        except (ValueError, KeyError, IndexError) as problem:
            raise error(422, "Invalid", f"the patch can't be applied: {problem}") from None
        return self._update(old, new, subresource)

    def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        policy: str | None = None,
        uid: str | None = None,
    ) -> JsonObject:
        """DELETE; without a policy what the kind has as its default."""
        old = self.get(kind, namespace, name)
        metadata: JsonObject = old["metadata"]
        if uid and uid != metadata["uid"]:
            raise error(409, "Conflict", f"the UID in the precondition ({uid}) is not the object's")
        finalizers = _finalizers_of_deletion(kind, metadata, policy)
        if kind == "Namespace":
            finalizers = ["kubernetes"]
        if kind == "Pod" and _is_graceful(old):
            grace = {"deletionGracePeriodSeconds": POD_GRACE_SECONDS}
        elif not finalizers:
            self._remove(old)
            return old
        else:
            grace = {}
        changed: JsonObject = {**metadata, **grace, "finalizers": finalizers}
        if not finalizers:
            del changed["finalizers"]
        if "deletionTimestamp" not in metadata:
            changed["deletionTimestamp"] = self.timestamp()
            if "generation" in metadata:
                changed["generation"] += 1
        if changed == metadata:
            return old
        return self._write(old, {**old, "metadata": changed})

    def remove(self, body: JsonObject) -> None:
        """The kubelet's last word about a pod: it is gone, without further grace."""
        if self.uids.get(body["metadata"]["uid"]):
            self._remove(self.objects[self.uids[body["metadata"]["uid"]]])

    def set_status(self, body: JsonObject, **changes: Any) -> JsonObject | None:
        """What a controller writes; None when the object is gone."""
        key = self.uids.get(body["metadata"]["uid"])
        if key is None:
            return None
        now = self.objects[key]
        return self._update(now, {**now, "status": (now.get("status") or {}) | changes}, "status")

    def timestamp(self) -> str:
        """The time as Kubernetes writes it."""
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    # --- rules

    def _namespace_takes(self, kind: Kind, key: Key) -> None:
        space = self.objects.get(("Namespace", "", key[1]))
        if space is None:
            raise error(404, "NotFound", f"namespaces {key[1]!r} not found")
        if "deletionTimestamp" in space["metadata"]:
            message = (
                f"{kind.plural} {key[2]!r} is forbidden: unable to create new content in namespace"
                f" {key[1]} because it is being terminated"
            )
            raise error(403, "Forbidden", message)

    def _update(self, old: JsonObject, new: JsonObject, subresource: str) -> JsonObject:
        kind = BY_NAME[old["kind"]]
        before: JsonObject = old["metadata"]
        given: JsonObject = new["metadata"]
        if given.get("resourceVersion", before["resourceVersion"]) != before["resourceVersion"]:
            message = (
                "the object has been modified; please apply your changes to the latest version"
            )
            raise error(409, "Conflict", message)
        if subresource == "status":
            # Nothing but the version is compared: a wrong uid in a patch is ignored.
            new = {**old, "status": new.get("status")}
        elif given.get("uid", before["uid"]) != before["uid"]:
            # In a patch it isn't a precondition but a change.
            raise error(422, "Invalid", "metadata.uid: Invalid value: field is immutable")
        else:
            new = self._of_client(kind, old, with_defaults(new))
            for check in self.admission:
                new = check("UPDATE", new)
        if new == old:
            return old
        return self._write(old, new)

    def _of_client(self, kind: Kind, old: JsonObject, new: JsonObject) -> JsonObject:
        """The object after a write of the main resource: what clients can't change stays."""
        before: JsonObject = old["metadata"]
        metadata = {key: value for key, value in new["metadata"].items() if key not in _SERVERS}
        metadata |= {key: before[key] for key in _SERVERS if key in before}
        metadata["resourceVersion"] = before["resourceVersion"]
        finalizers: list[str] = metadata.get("finalizers") or []
        if "deletionTimestamp" in before and set(finalizers) - set(before.get("finalizers") or ()):
            message = "metadata.finalizers: Forbidden: no new finalizers can be added"
            raise error(422, "Invalid", f"{message} if the object is being deleted")
        for field in ("finalizers", "annotations", "labels", "ownerReferences"):
            if field in metadata and not metadata[field]:
                del metadata[field]
        if kind.name in TARGET_KINDS and ("cml" in old["spec"]) != ("cml" in new["spec"]):
            # The one rule of a CRD that schedules break.
            raise error(422, "Invalid", "spec: a change between kubernetes and cml is refused")
        changed = {**new, "metadata": metadata}
        if kind.status:
            changed.pop("status", None)
            if "status" in old:
                changed["status"] = old["status"]
        if kind.generation:
            metadata["generation"] = before["generation"] + (changed["spec"] != old["spec"])
        return changed

    def _write(self, old: JsonObject, new: JsonObject) -> JsonObject:
        metadata: JsonObject = new["metadata"]
        self.version += 1
        new = {**new, "metadata": {**metadata, "resourceVersion": str(self.version)}}
        key = self.uids[metadata["uid"]]
        waits = "deletionGracePeriodSeconds" in metadata
        if "deletionTimestamp" in metadata and not metadata.get("finalizers") and not waits:
            self._remove(new)
        else:
            self._store(key, new, old)
        return new

    def _store(self, key: Key, new: JsonObject, old: JsonObject | None) -> None:
        metadata: JsonObject = new["metadata"]
        owners: Any = metadata.get("ownerReferences") or ()
        if old is None:
            self.uids[metadata["uid"]] = key
        elif old["metadata"].get("ownerReferences") != metadata.get("ownerReferences"):
            for owner in old["metadata"].get("ownerReferences") or ():
                self.children[owner["uid"]].pop(key, None)
        for owner in owners:
            self.children[owner["uid"]][key] = None
        self.objects[key] = new
        self._tell("ADDED" if old is None else "MODIFIED", new, old)

    def _remove(self, body: JsonObject) -> None:
        key = self.uids.pop(body["metadata"]["uid"])
        old = self.objects.pop(key)
        for owner in old["metadata"].get("ownerReferences") or ():
            self.children[owner["uid"]].pop(key, None)
        self.version += 1
        last = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self._tell("DELETED", last, old)

    def _tell(self, kind: str, new: JsonObject, old: JsonObject | None) -> None:
        for observer in self.observers:
            observer(kind, new, old)


def _not_served() -> ApiError:
    return error(404, "NotFound", "the server could not find the requested resource")


def _field(body: JsonObject, path: str) -> Any:
    value: Any = body
    for part in path.split("."):
        value = (value or {}).get(part)
    return value


def selects(selector: str, body: JsonObject) -> bool:
    """Whether a label selector of one term fits: ``key``, ``!key`` or ``key=value``."""
    labels: JsonObject = body["metadata"].get("labels") or {}
    if selector.startswith("!"):
        return selector[1:] not in labels
    key, equals, value = selector.partition("=")
    return labels.get(key) == value if equals else key in labels


def _is_graceful(pod: JsonObject) -> bool:
    status: JsonObject = pod.get("status") or {}
    scheduled = "nodeName" in pod["spec"]
    return scheduled and status.get("phase") not in ("Succeeded", "Failed")


def _finalizers_of_deletion(kind: str, metadata: JsonObject, policy: str | None) -> list[str]:
    """The finalizers once deletion is asked for: those of garbage collection follow the policy."""
    old: list[str] = metadata.get("finalizers") or []
    others = [name for name in old if name not in (FOREGROUND, ORPHAN)]
    if policy is None:
        # For a Job of batch/v1 orphaning is the default, for old clients' sake.
        default = "Orphan" if kind == "Job" else "Background"
        policy = "Orphan" if ORPHAN in old else "Foreground" if FOREGROUND in old else default
    wanted = {"Orphan": [ORPHAN], "Foreground": [FOREGROUND]}.get(policy, [])
    return [*others, *wanted]

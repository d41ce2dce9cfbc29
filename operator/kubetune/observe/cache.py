"""Objects as the watches and our own writes show them, with the look-ups that observe needs.

Bodies are plain dicts without what nobody reads. A write's answer is put here at once, so the
next reconcile doesn't have to wait for the watch; an older version never replaces a newer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.table import BY_KIND
from kubetune.clients.pods import is_live
from kubetune.names import OWNER_KIND, OWNER_NAME, RUN_KEY
from kubetune.observe.packed import Packed, Packer, is_over, unpack
from kubetune.observe.references import references
from kubetune.queue import Key

CHILD_KINDS = frozenset({"Job", "Pod"})
ORPHAN = "orphan"
"""The finalizer by which Kubernetes lets the dependents of a deleted object be."""
# Half the memory of a finished run.
UNREAD_SPEC_FIELDS = {"Job": ("template",), "Pod": ("containers", "initContainers", "volumes")}
MIRRORED_CONFIG_MAP_FIELDS = {"apiVersion", "kind", "metadata"}
REMEMBERED_AS_GONE = 10_000
"""Objects; news of one that is gone can only be late by the time of a request."""


class ObjectCache:
    """All watched objects by kind, namespace and name."""

    def __init__(self) -> None:
        self.on_change: Callable[[JsonObject, bool], None] = lambda body, ours: None
        """Called with each object that is new here, and whether the change is our own write."""
        self._objects: dict[Key, JsonObject | Packed] = {}
        """Bodies; of what is over packed ones."""
        self._packer = Packer()
        self._by_kind: defaultdict[str, defaultdict[str, dict[Key, None]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        """The keys by kind, and then by namespace, in the order in which they came."""
        self._children: dict[str, tuple[Key, ...]] = {}
        """Jobs and pods by the uid of their controlling owner."""
        self._live_pods: dict[str, tuple[Key, ...]] = {}
        """Pods that have not ended, by the run key in their labels."""
        self._loose_jobs: dict[str, tuple[Key, ...]] = {}
        """Jobs that no kubetune object controls, by the run key in their labels."""
        self._by_uid: dict[str, Key] = {}
        """Keys of what may control something: our own kinds, and Jobs."""
        self._letting_go: set[str] = set()
        """Uids of objects that were seen with the finalizer of an orphaning deletion.

        The garbage collector soon takes it away, maybe before anybody else has looked.
        """
        self._references: dict[Key, frozenset[Key]] = {}
        self._dependents: dict[Key, set[Key]] = defaultdict(set)
        """Referenced key -> keys of the objects that name it."""
        self._gone: dict[str, int] = {}
        """The version at which an object was gone, by uid, the latest last."""

    def get(self, kind: str, namespace: str, name: str) -> JsonObject | None:
        """The object, or None. What is changed in it may not stay."""
        return self._body(Key(kind, namespace, name))

    def has(self, key: Key) -> bool:
        """Whether the object is known."""
        return key in self._objects

    def of_kind(self, kind: str, namespace: str | None = None) -> list[JsonObject]:
        """All objects of a kind, of one namespace or all."""
        return [body for key in self.keys(kind, namespace) if (body := self._body(key))]

    def keys(self, kind: str, namespace: str | None = None) -> list[Key]:
        """The keys of all objects of a kind, of one namespace or all."""
        if kind not in self._by_kind:
            return []
        spaces = self._by_kind[kind]
        if namespace is not None:
            return list(spaces[namespace]) if namespace in spaces else []
        return [key for keys in spaces.values() for key in keys]

    def under_way(self, kind: str) -> list[JsonObject]:
        """All objects of a kind but those that are over."""
        found = (self._objects[key] for key in self.keys(kind))
        return [body for body in found if not isinstance(body, Packed)]

    def count(self, kind: str) -> int:
        """How many objects of a kind there are."""
        return sum(map(len, self._by_kind[kind].values())) if kind in self._by_kind else 0

    def jobs(self, owner_uid: str) -> list[JsonObject]:
        """The batch Jobs that an object controls, by their word: of any namespace."""
        return self._owned("Job", owner_uid)

    def pods(self, job_uid: str) -> list[JsonObject]:
        """The pods of a batch Job, by their word: of any namespace."""
        return self._owned("Pod", job_uid)

    def live_pods(self, run_key: str) -> list[JsonObject]:
        """Pods labelled with this run key that have not ended, whosever they are."""
        return self._bodies(self._live_pods.get(run_key, ()))

    def loose_jobs(self, run_key: str) -> list[JsonObject]:
        """Jobs labelled with this run key that no kubetune object controls."""
        return self._bodies(self._loose_jobs.get(run_key, ()))

    def live_pods_of(self, kind: str, namespace: str, name: str) -> list[JsonObject]:
        """Pods that were made for an object and have not ended."""
        wanted = Key(kind, namespace, name)
        return [
            pod
            for keys in self._live_pods.values()
            for pod in self._bodies(keys)
            if owner_key(pod) == wanted
        ]

    def controller_key(self, body: JsonObject) -> Key | None:
        """The object that controls a Job or pod by its word, in whichever namespace it is.

        Of a pod, what controls its Job.
        """
        key = self._by_uid.get(controller_uid(body) or "")
        job = self._objects.get(key) if key and key.kind == "Job" else None
        return self._by_uid.get(_owner(job) or "") if job else key

    def lets_dependents_go(self, uid: str) -> bool:
        """Whether an object was deleted with ``--cascade=orphan``."""
        return uid in self._letting_go

    def dependents(self, key: Key) -> Iterable[Key]:
        """Objects that name this one, whether it exists or not."""
        return tuple(self._dependents.get(key, ()))

    def put(self, body: JsonObject, *, ours: bool = True) -> bool:
        """Store an object; False when the stored one is as new or newer, or it is gone since.

        ``ours`` is the answer to our own write: who wrote it doesn't have to be told of it.
        """
        key = key_of(body)
        known = self._objects.get(key)
        if known is not None and version_of(body) <= _version(known):
            return False
        if version_of(body) <= self._gone.get(body["metadata"]["uid"], -1):
            return False
        _slim(body)
        if ours and key.kind not in CHILD_KINDS:
            # The answer may have overtaken somebody's change, whose event will look old.
            before = self._body(key)
            ours = before is not None and _declared(before) == _declared(body)
        if known is not None:
            self._unlink(key, self._bodies((key,))[0])
        version = version_of(body)
        self._objects[key] = body
        if is_over(body):
            self._objects[key] = self._packer.pack(body, version, controller_uid(body))
        if key.kind == "Job" or key.kind in BY_KIND:
            self._by_uid[body["metadata"]["uid"]] = key
        self._by_kind[key.kind][key.namespace][key] = None
        for index, owner in self._indexed(body):
            index[owner] = (*index.get(owner, ()), key)
        if ORPHAN in (body["metadata"].get("finalizers") or ()):
            self._letting_go.add(body["metadata"]["uid"])
        named = references(key, body)
        if named:
            self._references[key] = named
            for other in named:
                self._dependents[other].add(key)
        self.on_change(body, ours)
        return True

    def remove(self, body: JsonObject, version: int | None = None) -> bool:
        """Forget an object that is gone; False when it wasn't here, as when another took its name.

        ``version`` is that of what showed it to be gone, by default the object's own. The answer
        to a write or an event may be on its way still: what is not newer comes back no more.
        """
        uid = body["metadata"]["uid"]
        self._gone[uid] = max(version or version_of(body), self._gone.pop(uid, -1))
        while len(self._gone) > REMEMBERED_AS_GONE:
            del self._gone[next(iter(self._gone))]
        key = key_of(body)
        known = self._objects.get(key)
        if known is None or _uid(known) != uid:
            return False
        self._unlink(key, self._bodies((key,))[0])
        self._letting_go.discard(uid)
        del self._objects[key]
        spaces = self._by_kind[key.kind]
        del spaces[key.namespace][key]
        if not spaces[key.namespace]:
            del spaces[key.namespace]
        return True

    def drop(self, body: JsonObject) -> None:
        """Forget an object of which the API server knows nothing, and tell who depends on it."""
        if self.remove(body):
            self.on_change(body, False)

    def missing(
        self, kind: str, namespace: str | None, found: Mapping[tuple[str, str], str], version: int
    ) -> list[JsonObject]:
        """Objects of a kind, of one namespace or all, that a list of this version hasn't.

        ``found`` has the uids of what it has, by namespace and name. What is newer than the list
        was put in after it.
        """
        return self._bodies(
            key
            for key in self.keys(kind, namespace)
            if _version(self._objects[key]) <= version
            and found.get(key[1:]) != _uid(self._objects[key])
        )

    def _unlink(self, key: Key, body: JsonObject) -> None:
        self._by_uid.pop(body["metadata"]["uid"], None)
        for index, owner in self._indexed(body):
            left = tuple(other for other in index.get(owner, ()) if other != key)
            if left:
                index[owner] = left
            else:
                index.pop(owner, None)
        for other in self._references.pop(key, frozenset()):
            self._dependents[other].discard(key)
            if not self._dependents[other]:
                del self._dependents[other]

    def _owned(self, kind: str, owner_uid: str) -> list[JsonObject]:
        return self._bodies(key for key in self._children.get(owner_uid, ()) if key.kind == kind)

    def _indexed(self, body: JsonObject) -> Iterator[tuple[dict[str, tuple[Key, ...]], str]]:
        """The indexes that an object is in, and by what."""
        if owner := controller_uid(body):
            yield self._children, owner
        if run_key := _label_of_live(body):
            yield self._live_pods, run_key
        if run_key := _label_of_loose(body):
            yield self._loose_jobs, run_key

    def _body(self, key: Key) -> JsonObject | None:
        known = self._objects.get(key)
        return unpack(known) if isinstance(known, Packed) else known

    def _bodies(self, keys: Iterable[Key]) -> list[JsonObject]:
        """The objects of keys that are known."""
        return [body for key in keys if (body := self._body(key)) is not None]


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


def _declared(body: JsonObject) -> tuple[Any, ...]:
    """What others decide about an object: which one it is, what it wants, and that it goes."""
    metadata = body["metadata"]
    return tuple(metadata.get(field) for field in ("uid", "generation", "deletionTimestamp"))


def _label_of_live(body: JsonObject) -> str:
    """The run key of a pod that has not ended; empty of anything else."""
    live = body["kind"] == "Pod" and is_live(body)
    return (body["metadata"].get("labels") or {}).get(RUN_KEY, "") if live else ""


def _label_of_loose(body: JsonObject) -> str:
    """The run key of a Job that no kubetune object controls; empty of anything else."""
    if body["kind"] != "Job":
        return ""
    for owner in body["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") in BY_KIND:
            return ""
    return (body["metadata"].get("labels") or {}).get(RUN_KEY, "")


def controller_uid(body: JsonObject) -> str | None:
    """The uid of a child's controlling owner."""
    if body["kind"] not in CHILD_KINDS:
        return None
    for owner in body["metadata"].get("ownerReferences", ()):
        if owner.get("controller"):
            return str(owner["uid"])
    return None


def _version(known: JsonObject | Packed) -> int:
    return known.version if isinstance(known, Packed) else version_of(known)


def _owner(known: JsonObject | Packed) -> str | None:
    return known.owner if isinstance(known, Packed) else controller_uid(known)


def _uid(known: JsonObject | Packed) -> str:
    return known.uid if isinstance(known, Packed) else str(known["metadata"]["uid"])


def version_of(body: JsonObject) -> int:
    """The version of an object, higher for each later one, also for a successor of its name."""
    # Comparable since Kubernetes 1.35; before, they were etcd's increasing revisions anyway.
    return int(body["metadata"]["resourceVersion"])


def _slim(body: JsonObject) -> None:
    """Leave out what nobody reads. In place: thousands of objects come at a start."""
    kind = body["kind"]
    body["metadata"].pop("managedFields", None)
    if kind == "ConfigMap":
        for field in body.keys() - MIRRORED_CONFIG_MAP_FIELDS:
            del body[field]
    elif kind in BY_KIND:
        body.setdefault("spec", {})
    for field in UNREAD_SPEC_FIELDS.get(kind, ()):
        body.get("spec", {}).pop(field, None)

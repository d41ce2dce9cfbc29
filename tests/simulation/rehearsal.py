"""The same random requests to the model and to a real API server, and what both show of it.

Objects of a schedule: a FineTuneJob that owns a ConfigMap and a Job, which owns another ConfigMap.
Jobs are suspended, so no pod comes of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kubetune.api import JsonObject
from kubetune.clients.kubernetes import ApiError, KubernetesClient

from tests.simulation import manifests
from tests.simulation.api_server import FOREGROUND, ORPHAN
from tests.simulation.jobs import has_condition
from tests.simulation.world import World

Ask = Callable[[str, str, Any, str], tuple[int, JsonObject]]
"""Method, path, body and content type -> status and answer."""

MERGE_PATCH = "application/merge-patch+json"
KINDS = {"owner": "FineTuneJob", "map": "ConfigMap", "job": "Job", "leaf": "ConfigMap"}
OWNERS = {"map": "owner", "job": "owner", "leaf": "job"}
API_VERSIONS = {"FineTuneJob": "kubetune.io/v1alpha1", "Job": "batch/v1"}
SETTLE_SECONDS = 20.0


@dataclass(frozen=True)
class Request:
    """One request of a schedule; ``role`` says to which object."""

    verb: str
    role: str
    arguments: JsonObject


def draw_requests(seed: int, count: int) -> list[Request]:
    """The requests of a seed. They begin with the creation of everything."""
    draw = random.Random(f"rehearsal {seed}")
    begin = [Request("create", role, {"holds": draw.random() < 0.5}) for role in KINDS]
    verbs = list(_VERBS)
    return [
        *begin,
        *(
            Request(draw.choice(verbs), draw.choice(tuple(KINDS)), _drawn_arguments(draw))
            for _ in range(count)
        ),
    ]


def _drawn_arguments(draw: random.Random) -> JsonObject:
    return {
        "holds": draw.random() < 0.5,
        "value": draw.choice(("one", "two")),
        "version": draw.choice(("newest", "newest", "first", "none")),
        "uid": draw.choice(("right", "right", "wrong", "none")),
        "finalizers": draw.choice(([], ["kubetune.io/held"], ["kubetune.io/held"])),
        "policy": draw.choice((None, "Background", "Foreground", "Orphan")),
    }


@dataclass
class Rehearsal:
    """One side of a schedule: what it has asked, and what it remembers of the answers."""

    ask: Ask
    namespace: str
    prefix: str
    uids: dict[str, str] = field(default_factory=dict[str, str])
    """Every uid ever seen -> a name that both sides share."""
    first: dict[str, JsonObject] = field(default_factory=dict[str, JsonObject])
    """Each object as it was created last."""

    def perform(self, request: Request) -> tuple[int, str]:
        """Send a request; status and reason."""
        status, answer = _VERBS[request.verb](self, request.role, request.arguments)
        if request.verb == "create" and status < 300:
            uid = answer["metadata"]["uid"]
            self.uids[uid] = f"{request.role} {len(self.uids)}"
            self.first[request.role] = answer
        return status, "" if status < 300 else str(answer.get("reason"))

    def show(self) -> dict[str, JsonObject | None]:
        """What is there, as far as both sides can agree about it."""
        return {role: self._shown(self.find(role)) for role in KINDS}

    def find(self, role: str) -> JsonObject | None:
        """An object, or None."""
        status, answer = self.ask("GET", self.path(role), None, "")
        return answer if status == 200 else None

    def path(self, role: str, named: bool = True) -> str:
        """The path of an object, or where it is created."""
        name = f"{self.prefix}-{role}" if named else None
        return KubernetesClient.path(KINDS[role], self.namespace, name)

    def _shown(self, body: JsonObject | None) -> JsonObject | None:
        if body is None:
            return None
        metadata: JsonObject = body["metadata"]
        owners: Any = metadata.get("ownerReferences") or ()
        shown: JsonObject = {
            "uid": self.uids[metadata["uid"]],
            "deleting": "deletionTimestamp" in metadata,
            "finalizers": sorted(metadata.get("finalizers") or ()),
            "annotations": metadata.get("annotations") or {},
            "owners": [self.uids.get(owner["uid"], "unknown") for owner in owners],
        }
        if body["kind"] == "FineTuneJob":
            shown |= {
                "generation": metadata["generation"],
                "suspend": body["spec"].get("suspend"),
                "phase": (body.get("status") or {}).get("phase"),
            }
        if body["kind"] == "Job":
            # Its controller writes that on its own, and with it a new version.
            shown["suspended"] = has_condition(body, "Suspended")
        return shown

    # --- requests

    def _create(self, role: str, arguments: JsonObject) -> tuple[int, JsonObject]:
        body = self._manifest(role)
        owner = OWNERS.get(role)
        if owner and owner in self.first:
            reference = {
                "apiVersion": API_VERSIONS[KINDS[owner]],
                "kind": KINDS[owner],
                "name": f"{self.prefix}-{owner}",
                "uid": self.first[owner]["metadata"]["uid"],
                "blockOwnerDeletion": arguments["holds"],
            }
            body["metadata"]["ownerReferences"] = [reference]
        return self.ask("POST", self.path(role, named=False), body, "application/json")

    def _put(self, role: str, arguments: JsonObject) -> tuple[int, JsonObject]:
        body = self._manifest(role)
        if KINDS[role] == "Job":
            # Its template has defaults that the model doesn't know.
            found = self.find(role)
            body["spec"] = found["spec"] if found else body["spec"]
        if KINDS[role] == "FineTuneJob":
            body["spec"]["suspend"] = arguments["value"] == "one"
        body["metadata"] |= self._conditions(role, arguments)
        body["metadata"]["finalizers"] = arguments["finalizers"]
        return self.ask("PUT", self.path(role), body, "application/json")

    def _patch(self, role: str, arguments: JsonObject) -> tuple[int, JsonObject]:
        metadata = self._conditions(role, arguments)
        metadata["annotations"] = {"kubetune.io/note": arguments["value"]}
        if KINDS[role] == "FineTuneJob":
            metadata["finalizers"] = arguments["finalizers"]
        body: JsonObject = {"metadata": metadata}
        if KINDS[role] == "FineTuneJob":
            body["spec"] = {"suspend": arguments["value"] == "one"}
            body["status"] = {"phase": "Running"}
        return self.ask("PATCH", self.path(role), body, MERGE_PATCH)

    def _patch_status(self, role: str, arguments: JsonObject) -> tuple[int, JsonObject]:
        metadata = self._conditions("owner", arguments)
        metadata["annotations"] = {"kubetune.io/note": "by status"}
        phase = "Running" if arguments["value"] == "one" else "Queued"
        body = {
            "metadata": metadata,
            "spec": {"suspend": arguments["holds"]},
            "status": {"phase": phase},
        }
        return self.ask("PATCH", self.path("owner") + "/status", body, MERGE_PATCH)

    def _release(self, role: str, arguments: JsonObject) -> tuple[int, JsonObject]:
        """Take all finalizers off that aren't the garbage collector's."""
        found = self.find(role) or {"metadata": {}}
        old: list[str] = found["metadata"].get("finalizers") or []
        kept = [name for name in old if name in (FOREGROUND, ORPHAN)]
        patch = {"metadata": {"finalizers": kept}}
        return self.ask("PATCH", self.path(role), patch, MERGE_PATCH)

    def _delete(self, role: str, arguments: JsonObject) -> tuple[int, JsonObject]:
        options: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if arguments["policy"]:
            options["propagationPolicy"] = arguments["policy"]
        if uid := self._uid(role, arguments):
            options["preconditions"] = {"uid": uid}
        return self.ask("DELETE", self.path(role), options, "application/json")

    def _manifest(self, role: str) -> JsonObject:
        name, kind = f"{self.prefix}-{role}", KINDS[role]
        if kind == "FineTuneJob":
            body = manifests.job(name)
            body["metadata"]["namespace"] = self.namespace
            return body
        body: JsonObject = {
            "apiVersion": API_VERSIONS.get(kind, "v1"),
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
        }
        if kind == "Job":
            container = {"name": "runner", "image": "none:1"}
            template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
            body["spec"] = {"suspend": True, "template": template}
        else:
            body["data"] = {"key": "value"}
        return body

    def _conditions(self, role: str, arguments: JsonObject) -> JsonObject:
        """Version and uid of the object that is meant."""
        metadata: JsonObject = {}
        found = self.find(role)
        if arguments["version"] == "newest" and found:
            metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
        elif arguments["version"] == "first" and role in self.first:
            metadata["resourceVersion"] = self.first[role]["metadata"]["resourceVersion"]
        if uid := self._uid(role, arguments):
            metadata["uid"] = uid
        return metadata

    def _uid(self, role: str, arguments: JsonObject) -> str | None:
        found = self.find(role)
        if arguments["uid"] == "wrong":
            return "00000000-0000-0000-0000-000000000000"
        return found["metadata"]["uid"] if found and arguments["uid"] == "right" else None


_VERBS: dict[str, Callable[[Rehearsal, str, JsonObject], tuple[int, JsonObject]]] = {
    "create": Rehearsal._create,
    "put": Rehearsal._put,
    "patch": Rehearsal._patch,
    "patch status": Rehearsal._patch_status,
    "release": Rehearsal._release,
    "delete": Rehearsal._delete,
}


class Model:
    """The model's side: a world with nothing but the API server and its controllers."""

    def __init__(self, seed: int, namespace: str) -> None:
        self.world = World(seed)
        self.world.server.create(manifests.namespace(namespace))

    def ask(self, method: str, path: str, body: Any, content_type: str) -> tuple[int, JsonObject]:
        """One request."""
        try:
            return 200, self.world.server.request(method, path, body)
        except ApiError as error:
            return error.status, {"reason": error.reason}

    def settle(self) -> None:
        """Let the controllers do what they have to do."""
        self.world.run_for(SETTLE_SECONDS)

"""The model of CRDs that go and come back does as a real API server does."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubetune.api import API_VERSION, JsonObject
from kubetune.api.crd import custom_resource_definition
from kubetune.api.kinds.table import BY_KIND
from kubetune.clients.kubernetes import ApiError, KubernetesClient
from kubetune_devcluster.cluster import LocalCluster
from kubetune_devcluster.objects import packaged

from tests.cluster.api_client import ApiClient
from tests.cluster.support import eventually
from tests.simulation.rehearsal import MERGE_PATCH, Model

pytestmark = pytest.mark.cluster

Ask = Callable[[str, str, Any, str], tuple[int, JsonObject]]

SCHEDULES = 6
REQUESTS = 8
SETTLE_SECONDS = 60.0
KIND = "TuningProfile"
"""One that nothing else in these tests needs."""
FINALIZER = "kubetune.io/held"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
NAME = f"{BY_KIND[KIND].plural}.kubetune.io"


class Side:
    """The model, or the API server: the same requests, and what both show."""

    def __init__(self, ask: Ask, namespace: str) -> None:
        self.ask = ask
        self.namespace = namespace
        self._uids: dict[str, int] = {}

    def perform(self, verb: str, held: bool) -> int:
        """The status of one request; 200 for any success."""
        one = KubernetesClient.path(KIND, self.namespace, "one")
        match verb:
            case "create":
                metadata: JsonObject = {"name": "one", "namespace": self.namespace}
                if held:
                    metadata["finalizers"] = [FINALIZER]
                body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {}}
                path = KubernetesClient.path(KIND, self.namespace)
                status = self.ask("POST", path, body, "application/json")[0]
            case "release":
                patch = {"metadata": {"finalizers": None}}
                status = self.ask("PATCH", one, patch, MERGE_PATCH)[0]
            case "annotate":
                patch = {"metadata": {"annotations": {"kubetune.io/note": "there"}}}
                status = self.ask("PATCH", one, patch, MERGE_PATCH)[0]
            case "delete":
                status = self.ask("DELETE", one, None, "application/json")[0]
            case "delete kind":
                status = self.delete_kind()
            case _:
                status = self.create_kind()
        return 200 if status < 300 else status

    def show(self) -> JsonObject:
        """Whether the kind is there, and the object, whose uid says which one it is."""
        status, body = self.ask("GET", KubernetesClient.path(KIND, self.namespace, "one"), None, "")
        metadata: JsonObject = body["metadata"] if status == 200 else {}
        listed = self.ask("GET", KubernetesClient.path(KIND, self.namespace), None, "")
        return {
            "kind": self.kind(),
            "listed": listed[0],
            "items": len(listed[1].get("items") or ()),
            "status": status,
            "which": self._uids.setdefault(metadata.get("uid", ""), len(self._uids)),
            "deleting": "deletionTimestamp" in metadata,
            "finalizers": metadata.get("finalizers") or [],
            "annotations": metadata.get("annotations") or {},
        }

    def kind(self) -> str:
        """served, ending or gone."""
        raise NotImplementedError

    def delete_kind(self) -> int:
        """DELETE of the CRD."""
        raise NotImplementedError

    def create_kind(self) -> int:
        """POST of the CRD."""
        raise NotImplementedError


class Modelled(Side):
    """The model."""

    def __init__(self, seed: int, namespace: str) -> None:
        self.model = Model(seed, namespace)
        super().__init__(self.model.ask, namespace)

    def kind(self) -> str:
        server = self.model.world.server
        return (
            "gone" if KIND in server.unserved else "ending" if KIND in server.ending else "served"
        )

    def delete_kind(self) -> int:
        return self._tried(self.model.world.definitions.delete)

    def create_kind(self) -> int:
        return self._tried(self.model.world.definitions.create)

    def _tried(self, change: Callable[[str], None]) -> int:
        try:
            change(KIND)
        except ApiError as refused:
            return refused.status
        return 200


class Real(Side):
    """The API server."""

    def kind(self) -> str:
        status, body = self.ask("GET", f"{DEFINITIONS}/{NAME}", None, "")
        if status == 404:
            return "gone"
        conditions: Any = (body.get("status") or {}).get("conditions") or ()
        true = {item["type"] for item in conditions if item["status"] == "True"}
        return "ending" if "Terminating" in true else "served" if "Established" in true else "new"

    def delete_kind(self) -> int:
        return self.ask("DELETE", f"{DEFINITIONS}/{NAME}", None, "application/json")[0]

    def create_kind(self) -> int:
        body = custom_resource_definition(BY_KIND[KIND])
        return self.ask("POST", DEFINITIONS, body, "application/json")[0]


@pytest.fixture
def api(cluster: LocalCluster, tmp_path: Path) -> Iterator[ApiClient]:
    """A connection as administrator; afterwards the kind is there again."""
    client = ApiClient(cluster.kubeconfig, tmp_path)
    yield client
    client.close()
    file = packaged("crds", "crds") / f"kubetune.io_{BY_KIND[KIND].plural}.yaml"
    cluster.kubectl("apply", "--server-side", "--field-manager=kubetune-local", "-f", str(file))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{NAME}")


def test_model_and_api_server_agree_about_kinds_that_go_and_come(api: ApiClient) -> None:
    namespace = f"kinds-{os.urandom(4).hex()}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    assert api.request("POST", "/api/v1/namespaces", body)[0] == 201
    try:
        for seed in range(SCHEDULES):
            _compare(seed, api, namespace)
    finally:
        api.request("DELETE", f"/api/v1/namespaces/{namespace}")


def _compare(seed: int, api: ApiClient, namespace: str) -> None:
    draw = random.Random(f"kinds {seed}")
    kinds = ["delete kind", "make kind"]
    objects = ["create", "create", "annotate", "delete", "release"]
    verbs = ["create", *draw.choices([*kinds, *objects], k=REQUESTS), "release", "make kind"]
    ours, theirs = Modelled(seed, namespace), Real(api.request, namespace)
    told: list[str] = []
    try:
        for verb in verbs:
            held = draw.random() < 0.5
            answers = ours.perform(verb, held), theirs.perform(verb, held)
            ours.model.settle()
            told.append(f"{verb}{' held' if held else ''}: {answers}")
            assert answers[0] == answers[1], told
            _settle(ours, theirs, told)
    finally:
        ours.model.world.close()
        theirs.perform("release", held=False)
        theirs.perform("delete", held=False)


def _settle(ours: Side, theirs: Side, told: list[str]) -> None:
    """Both come to the same state."""
    wanted = ours.show()

    def same() -> bool:
        return theirs.show() == wanted

    with contextlib.suppress(AssertionError):
        eventually(same, SETTLE_SECONDS)
    assert theirs.show() == wanted, told

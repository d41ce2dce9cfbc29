"""Somebody who works in one namespace and has no rights outside of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kubetune.api import API_VERSION, GROUP, JsonObject
from kubetune.api.kinds.table import BY_KIND
from kubetune.clients.kubernetes import CORE_KINDS

from tests.cluster.api_client import ApiClient
from tests.cluster.namespace import MERGE_PATCH, Namespace

RULES = [
    {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["*"]},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["*"]},
    {
        "apiGroups": [""],
        "resources": ["pods", "configmaps", "services", "secrets", "events"],
        "verbs": ["*"],
    },
]


OF_KUBETUNE_ALONE = [RULES[0]]


class Tenant:
    """A user with the rights of an ordinary tenant in a namespace, as the API server sees them."""

    def __init__(self, space: Namespace, name: str, rules: Sequence[JsonObject] = RULES) -> None:
        self.space = space
        self._folder = tempfile.TemporaryDirectory()
        self._api = ApiClient(space.cluster.kubeconfig, Path(self._folder.name), name)
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{space.namespace}"
        common: JsonObject = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": name},
        }
        space.request("POST", f"{path}/roles", {**common, "kind": "Role", "rules": list(rules)})
        binding = {
            **common,
            "kind": "RoleBinding",
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": name,
            },
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name},
            ],
        }
        space.request("POST", f"{path}/rolebindings", binding)

    def close(self) -> None:
        self._api.close()
        self._folder.cleanup()

    def request(self, method: str, path: str, body: object = None) -> JsonObject:
        """A request that must succeed; PATCH is a merge patch."""
        status, answer = self.try_request(method, path, body)
        assert status < 300, (method, path, answer.get("message"))
        return answer

    def try_request(self, method: str, path: str, body: object = None) -> tuple[int, JsonObject]:
        """Status and answer."""
        content = MERGE_PATCH if method == "PATCH" else "application/json"
        return self._api.request(method, path, body, content)

    def create(self, kind: str, name: str, spec: Any = None, **fields: Any) -> JsonObject:
        """Make an object in the own namespace; ``metadata`` has more than its name."""
        api_version = API_VERSION if kind in BY_KIND else CORE_KINDS[kind][0]
        body: JsonObject = {
            "apiVersion": api_version,
            "kind": kind,
            **fields,
            "metadata": {**fields.get("metadata", {}), "name": name},
            **({"spec": spec} if spec is not None else {}),
        }
        return self.request("POST", self.space.path(kind), body)

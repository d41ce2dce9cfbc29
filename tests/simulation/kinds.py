"""The kinds that the model of the API server knows, and the paths of their objects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from kubetune.api import API_VERSION
from kubetune.api.kinds.table import KINDS
from kubetune.clients.kubernetes import CORE_KINDS


@dataclass(frozen=True)
class Kind:
    """What the API server does differently from kind to kind."""

    name: str
    api_version: str
    plural: str
    namespaced: bool = True
    status: bool = False
    """Has a status subresource, which the main resource can't write."""
    generation: bool = False
    custom: bool = False
    """Defined by a CRD: a PUT needs the version that it replaces."""


@dataclass(frozen=True)
class Path:
    """What a path of the API names."""

    kind: Kind
    namespace: str
    name: str
    subresource: str


_OF_KUBETUNE = [
    Kind(kind.kind, API_VERSION, kind.plural, kind.namespaced, kind.status is not None, True, True)
    for kind in KINDS
]
_CORE = [
    Kind(
        name,
        *CORE_KINDS[name],
        namespaced=name != "Namespace",
        status=name in ("Job", "Pod", "Namespace"),
        generation=name in ("Job", "Pod"),
    )
    for name in ("Job", "Pod", "ConfigMap", "Secret", "Service", "Namespace")
]
# Of the core group, as the Job controller writes them and the operator reads them.
_EVENT = Kind("Event", "v1", "events")
BY_NAME = {kind.name: kind for kind in (*_OF_KUBETUNE, *_CORE, _EVENT)}
_BY_PLURAL = {kind.plural: kind for kind in BY_NAME.values()}


@lru_cache(maxsize=65536)
def parse_path(path: str) -> Path:
    """Read ``/apis/<group>/<version>/namespaces/<namespace>/<plural>/<name>/<subresource>``.

    Raises KeyError when there is no such kind.
    """
    parts = [unquote(part) for part in path.strip("/").split("/")]
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] in _BY_PLURAL:
        namespace, parts = parts[1], parts[2:]
    kind, name, subresource = [*parts, "", ""][:3]
    return Path(_BY_PLURAL[kind], namespace, name, subresource)

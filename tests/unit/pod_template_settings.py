"""A podTemplate with every field, and for each another value."""

import copy
from collections.abc import Iterator
from typing import Any

from kubetune.api import JsonObject

EXPRESSION: JsonObject = {"key": "pool", "operator": "In", "values": ["a"]}
NODES: JsonObject = {"matchExpressions": [EXPRESSION]}
SELECTOR: JsonObject = {"matchLabels": {"app": "a"}, "matchExpressions": [EXPRESSION]}
PODS: JsonObject = {
    "topologyKey": "zone",
    "labelSelector": SELECTOR,
    "matchLabelKeys": ["run"],
    "namespaces": ["a"],
    "namespaceSelector": SELECTOR,
}
NEAR: JsonObject = {
    "requiredDuringSchedulingIgnoredDuringExecution": [PODS],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": PODS}],
}
SPREAD: JsonObject = {
    "maxSkew": 1,
    "topologyKey": "zone",
    "whenUnsatisfiable": "DoNotSchedule",
    "labelSelector": SELECTOR,
    "matchLabelKeys": ["run"],
    "minDomains": 2,
    "nodeAffinityPolicy": "Ignore",
    "nodeTaintsPolicy": "Honor",
}
FETCH: JsonObject = {
    "name": "fetch",
    "image": "tools:1",
    "imagePullPolicy": "Always",
    "command": ["fetch"],
    "args": ["weights"],
    "env": [
        {"name": "A", "value": "1"},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "n", "key": "k"}}},
    ],
    "resources": {"cpu": "1", "memory": "1Gi"},
}
FULL: JsonObject = {
    "labels": {"team": "a"},
    "annotations": {"team.example.com/note": "Any text: ü!"},
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [NODES]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": NODES}],
        },
        "podAffinity": NEAR,
        "podAntiAffinity": NEAR,
    },
    "topologySpreadConstraints": [SPREAD],
    "schedulerName": "gangs",
    "extendedResources": {"rdma/hca": "1", "vpc.amazonaws.com/efa": "4"},
    "initContainers": [FETCH],
}
MAPS = ("labels", "annotations", "matchLabels", "extendedResources")
OTHER: JsonObject = {
    "labels": {"team": "b"},
    "annotations": {"team.example.com/note": "other"},
    "matchLabels": {"app": "b"},
    "extendedResources": {"rdma/hca": "2"},
    "key": "other",
    "operator": "NotIn",
    "values": ["b"],
    "weight": 7,
    "topologyKey": "other",
    "matchLabelKeys": ["other"],
    "namespaces": ["b"],
    "maxSkew": 2,
    "whenUnsatisfiable": "ScheduleAnyway",
    "minDomains": 3,
    "nodeAffinityPolicy": "Honor",
    "nodeTaintsPolicy": "Ignore",
    "schedulerName": "other",
    "name": "other",
    "image": "tools:2",
    "imagePullPolicy": "Never",
    "command": ["other"],
    "args": ["other"],
    "value": "2",
    "cpu": "2",
    "memory": "2Gi",
}


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the settings stand in a podTemplate."""
    if isinstance(value, dict) and path[-1:] not in [(name,) for name in MAPS]:
        for name, below in value.items():
            yield from leaves(below, (*path, name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for at, below in enumerate(value):
            yield from leaves(below, (*path, at))
    else:
        yield path


def named(path: tuple[str | int, ...]) -> str:
    """The path as a schema has it."""
    return "".join("[]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def changed(path: tuple[str | int, ...]) -> Any:
    """The podTemplate with another value there; of it what stands before the first list."""
    template = copy.deepcopy(FULL)
    holder: Any = template
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = OTHER[str(path[-1])]
    if path[-1] == "whenUnsatisfiable":
        del holder["minDomains"]
    value: Any = template
    for part in path:
        if isinstance(part, int):
            break
        value = value[part]
    return value


OTHERS = {named(path): changed(path) for path in leaves(FULL)}
"""Another value by path."""

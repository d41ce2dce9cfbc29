"""Environment variables and command lines of containers, by Kubernetes' rules."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from .client import Object

_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_FACTORS = {
    "": Decimal(1),
    "m": Decimal("1e-3"),
    "u": Decimal("1e-6"),
    "n": Decimal("1e-9"),
}
for _power, _suffix in enumerate("kMGTPE", start=1):
    _FACTORS[_suffix] = Decimal(1000**_power)
    _FACTORS["Ki" if _suffix == "k" else _suffix + "i"] = Decimal(1024**_power)
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value and `$$` by `$`; unknown names stay as text."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def parse_quantity(text: str) -> Decimal:
    """The number that a Kubernetes quantity such as `500m` or `2Gi` stands for.

    Raises ValueError for anything else.
    """
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkKMGTPE]?i?)", text)
    try:
        if match:
            return Decimal(match[1]) * _FACTORS[match[2]]
    except (InvalidOperation, KeyError):
        pass
    raise ValueError(f"{text!r} is not a quantity: write a number with a suffix such as m, M or Gi")


def pod_field(pod: Object, path: str, addresses: Mapping[str, str]) -> str:
    """The text of a downward API `fieldRef` path; `addresses` has podIP and hostIP.

    Raises ValueError for a path that has no value on this node.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    if match := _SUBSCRIPT.fullmatch(path):
        return (metadata.get(match[1]) or {}).get(match[2], "")
    if path in ("metadata.labels", "metadata.annotations"):
        entries = metadata.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{_escape(value)}"' for key, value in sorted(entries.items()))
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": addresses["hostIP"],
        "status.hostIPs": addresses["hostIP"],
        "status.podIP": addresses["podIP"],
        "status.podIPs": addresses["podIP"],
    }
    if path not in values:
        raise ValueError(f"fieldPath {path!r} is unknown; use one of: {', '.join(values)}")
    return values[path]


def resource_field(pod: Object, container: str, reference: Object, capacity: Object) -> str:
    """The text of a `resourceFieldRef`: an amount in units of its divisor, rounded up.

    A limit that isn't set is the node's capacity, a request that isn't set is the limit.
    """
    name = reference.get("containerName") or container
    spec = next(c for c in all_containers(pod) if c["name"] == name)
    kind, _, resource = reference["resource"].partition(".")
    amounts = spec.get("resources") or {}
    default = (amounts.get("limits") or {}).get(resource, capacity.get(resource, "0"))
    amount = (amounts.get(kind) or {}).get(resource, default)
    divisor = reference.get("divisor") or "1"
    if parse_quantity(divisor) == 0:
        divisor = "1"
    return str(math.ceil(parse_quantity(amount) / parse_quantity(divisor)))


def all_containers(pod: Object) -> list[Object]:
    """Init containers and containers of the pod, in the order of their specs."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

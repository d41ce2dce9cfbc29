"""Which model registry a job or Model may name, and which registered models a run may read."""

from __future__ import annotations

import re
from typing import Any, cast

from kubetune.api.conditions import Reason
from kubetune.api.foreign import first_line
from kubetune.api.kinds.compute_target.spec import Tracking
from kubetune.api.kinds.model.spec import RegistryProvider
from kubetune.api.schema.base import DNS_LABEL
from kubetune.decide.consent import Lacking

_REGISTERED = re.compile(r"models:/([^/:@?#%;\x00-\x1f\x7f]+)(?:/[0-9]+|@[-A-Za-z0-9_]+)")
_UNREGISTERED = re.compile(r"models:/[-A-Za-z0-9_]+|(?!models:).*", re.DOTALL)
"""Results of jobs of the same namespace, which have no name."""
_ADDRESS = "registryUri"


def provider_problem(provider: RegistryProvider | None, tracking: Tracking, field: str) -> str:
    """A sentence when the registry that ``field`` asks for is not the target's; else empty."""
    if provider in (None, tracking.type):
        return ""
    return (
        f"{field} is {provider}, but spec.tracking.type of the compute target is {tracking.type},"
        f" and runs reach its registry alone: leave {field.rpartition('.')[2]} out, or name a"
        f" target whose tracking is {provider}"
    )


def names_read(plan: object) -> list[str]:
    """The registered models that a run reads by its plan, as JSON; wherever in it they are named.

    Raises ValueError where MLflow may read an address otherwise than it looks.
    """
    names: set[str] = set()
    for address in _addresses(plan):
        if match := _REGISTERED.fullmatch(address):
            names.add(match[1])
        elif not _UNREGISTERED.fullmatch(address):
            raise ValueError(f"{first_line(address)} names no version of a registered model")
    return sorted(names)


def _addresses(plan: object) -> list[str]:
    """Without recursion, as each start of a run pays for it."""
    found: list[str] = []
    left: list[object] = [plan]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += (item for item in cast("list[Any]", value) if isinstance(item, dict | list))
        elif isinstance(value, dict):
            for key, item in cast("dict[str, Any]", value).items():
                if isinstance(item, dict | list):
                    left.append(item)
                elif key == _ADDRESS and isinstance(item, str):
                    found.append(item)
    return found


def not_shared(name: str, owner: str, namespace: str, tracking: Tracking) -> Lacking | None:
    """Why runs of a namespace may not read a registered model that belongs to ``owner``, if so.

    Those that belong to nobody, as people have made them by hand, are for everybody.
    """
    if not owner or owner in (namespace, *tracking.trusted_namespaces) or tracking.shares(name):
        return None
    whose = f"namespace {owner}" if re.fullmatch(DNS_LABEL, owner) else "another namespace"
    return Lacking(
        Reason.REGISTERED_MODEL_NOT_SHARED,
        f"registered model {name} belongs to {whose}: name another, or have the target's admin"
        " share it in spec.tracking.registry.allowedNames, or list that namespace in"
        " trustedNamespaces",
    )

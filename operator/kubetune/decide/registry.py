"""Which model registry a job or Model may name: the one of its target's tracking server."""

from __future__ import annotations

from kubetune.api.kinds.compute_target.spec import Tracking
from kubetune.api.kinds.model.spec import RegistryProvider


def provider_problem(provider: RegistryProvider | None, tracking: Tracking, field: str) -> str:
    """A sentence when the registry that ``field`` asks for is not the target's; else empty."""
    if provider in (None, tracking.type):
        return ""
    return (
        f"{field} is {provider}, but spec.tracking.type of the compute target is {tracking.type},"
        f" and runs reach its registry alone: leave {field.rpartition('.')[2]} out, or name a"
        f" target whose tracking is {provider}"
    )

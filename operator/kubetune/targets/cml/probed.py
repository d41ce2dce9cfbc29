"""What a probe of a CML workspace has shown, and what a target says about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from kubetune.api import JsonObject
from kubetune.api.conditions import Reason
from kubetune.api.kinds.compute_target.cml import CmlTarget
from kubetune.api.kinds.status_types import (
    CmlAcceleratorDict,
    CmlQuotaDict,
    CmlWorkspaceStatusDict,
    ComputeTargetStatusDict,
)
from kubetune.targets.values import TargetProbe

MAX_ACCELERATORS = 32
MAX_VARIABLES = 100
MAX_TEXT = 1024
"""Of any text of the workspace's: an object of Kubernetes has little room."""


@dataclass(frozen=True)
class WorkspaceProbe:
    """What the workspace answered; ``reason`` is set when a run would not find what it needs."""

    reason: Reason | None = None
    message: str = ""
    project_id: str = ""
    runtime: str = ""
    accelerators: tuple[CmlAcceleratorDict, ...] = ()
    """Items of status.workspace.accelerators."""
    quota: CmlQuotaDict = field(default_factory=CmlQuotaDict)
    variables: tuple[str, ...] = ()
    """Names of the project's variables."""


def describe(probe: WorkspaceProbe) -> CmlWorkspaceStatusDict:
    """status.workspace."""
    value: CmlWorkspaceStatusDict = {
        "projectId": probe.project_id,
        "runtime": probe.runtime,
        "accelerators": list(probe.accelerators[:MAX_ACCELERATORS]),
        "quota": probe.quota,
        "variables": sorted(probe.variables)[:MAX_VARIABLES],
    }
    known: Any = {key: _bounded(item) for key, item in value.items() if item}
    return known


def _bounded(value: Any) -> Any:
    match value:
        case str():
            return value[:MAX_TEXT]
        case list():
            return [_bounded(item) for item in cast("list[Any]", value)]
        case dict():
            return {key: _bounded(item) for key, item in cast("JsonObject", value).items()}
        case _:
            return value


def told(target: CmlTarget, probe: WorkspaceProbe) -> TargetProbe:
    """What the target's status says of it."""
    status: ComputeTargetStatusDict = {"workspace": describe(probe)}
    if probe.reason is not None:
        return TargetProbe(probe.reason, probe.message, status)
    missing = [name for name in target.required_variables or () if name not in probe.variables]
    # A variable may also come from the key's user or the site, so this is a hint, no verdict.
    hint = f"; the project itself does not set {', '.join(missing)}" if missing else ""
    message = f"project {probe.project_id} answers; runs use {probe.runtime}{hint}"
    return TargetProbe(None, message, status)

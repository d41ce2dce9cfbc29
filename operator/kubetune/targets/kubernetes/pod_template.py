"""What a target's podTemplate adds to the pods of runs, under what the operator says of them."""

from __future__ import annotations

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.kubernetes import KubernetesTarget
from kubetune.api.kinds.compute_target.pod_template import InitContainer, PodTemplate
from kubetune.api.run import plan

TEMPORARY = "/tmp"  # noqa: S108 - the pod's own
CONTAINER_SECURITY: JsonObject = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Of every container, so that pods are of the level restricted."""
_INIT_VARIABLES = {"HOME": TEMPORARY, "HF_HOME": plan.CACHE_DIRECTORY}
"""Where an init container may write; it may say otherwise."""


def metadata(target: KubernetesTarget, owned: JsonObject) -> JsonObject:
    """Labels and annotations of pods; those that the operator has given win."""
    template = _of(target)
    return {
        "labels": {**(template.labels or {}), **owned["labels"]},
        "annotations": {**(template.annotations or {}), **owned["annotations"]},
    }


def placement(target: KubernetesTarget) -> JsonObject:
    """Fields by which the scheduler chooses a node; empty ones are for the caller to leave out."""
    template = _of(target)
    constraints = template.topology_spread_constraints or ()
    return {
        "affinity": template.affinity.to_json() if template.affinity else {},
        "topologySpreadConstraints": [constraint.to_json() for constraint in constraints],
        "schedulerName": template.scheduler_name,
    }


def extended_resources(target: KubernetesTarget, purpose: str) -> dict[str, str]:
    """Devices of the run's container. An inspection computes nothing that needs one."""
    return {} if purpose == "inspect" else dict(_of(target).extended_resources or {})


def init_containers(target: KubernetesTarget, mounts: list[JsonObject]) -> list[JsonObject]:
    """What runs before the run itself, with those of its mounts that the target gives every run.

    Data, plan and credentials of a job are none of their business.
    """
    paths = {TEMPORARY, plan.CACHE_DIRECTORY, *target.mount_paths}
    shared = [mount for mount in mounts if mount["mountPath"] in paths]
    return [_init_container(given, shared) for given in _of(target).init_containers or ()]


def _init_container(given: InitContainer, mounts: list[JsonObject]) -> JsonObject:
    named = {variable.name for variable in given.env or ()}
    ours = [
        {"name": name, "value": value}
        for name, value in _INIT_VARIABLES.items()
        if name not in named
    ]
    amounts = given.resources.to_json()
    return given.to_json() | {
        "env": [*ours, *(variable.to_json() for variable in given.env or ())],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": mounts,
        "securityContext": CONTAINER_SECURITY,
        # Why it failed is told with the run.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _of(target: KubernetesTarget) -> PodTemplate:
    return target.pod_template or PodTemplate()

"""What an admin adds to the pods of runs; what kubetune says of a pod isn't among it.

There is no field by which a pod would get more rights: the host's network, users, volumes and
service accounts of pods stay as the operator makes them.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from kubetune.api.schema.base import ObjectName, Value, keyed_by, without_nulls
from kubetune.api.schema.kubernetes_values import (
    DnsLabel,
    EnvVar,
    ExtendedResource,
    ImageName,
    LabelKey,
    Labels,
    Quantity,
    WholeQuantity,
)
from kubetune.api.schema.placement_values import Affinity, TopologySpreadConstraint
from kubetune.api.schema.rules import Rule

RUN_CONTAINER = "runner"
"""The container in which the run itself is."""

OWNED_KEYS = (
    r"^(([^/]*[.])?kubetune[.]io/|batch[.]kubernetes[.]io/|job-name$|controller-uid$"
    r"|app[.]kubernetes[.]io/managed-by$)"
)
"""Labels and annotations by which the operator and Kubernetes know a run's pods."""
SECURITY_KEYS = r"^([^/]*[.])?security[.]([^/]*[.])?kubernetes[.]io/"
"""Annotations by which older Kubernetes takes AppArmor and seccomp off a container."""

Annotations = Annotated[
    dict[LabelKey, Annotated[str, Field(max_length=4096)]],
    Field(max_length=32),
    BeforeValidator(without_nulls),
]
ExtendedResources = Annotated[
    dict[ExtendedResource, WholeQuantity],
    Field(min_length=1, max_length=16),
    BeforeValidator(without_nulls),
]
Words = Annotated[list[Annotated[str, Field(max_length=8192)]], Field(min_length=1, max_length=64)]


def _without(field: str, pattern: str, message: str) -> Rule:
    """No key of a map begins like this."""
    return Rule(
        cel=f"!has(self.{field}) || self.{field}.all(key, !key.matches('{pattern}'))",
        message=message,
        check=lambda given: not any(re.search(pattern, key) for key in getattr(given, field) or ()),
        field=field,
    )


def _owned(field: str) -> Rule:
    return _without(
        field,
        OWNED_KEYS,
        f"{field} of kubetune.io, batch.kubernetes.io, app.kubernetes.io/managed-by, job-name and"
        " controller-uid are how pods of runs are known: take another key",
    )


class InitResources(Value):
    """What an init container may use; it is asked for, too."""

    cpu: Quantity = Field(default="500m", description="CPUs. Default 500m.")
    memory: Quantity = Field(default="512Mi", description="Memory. Default 512Mi.")


class InitContainer(Value):
    """A container that ends before the run begins.

    It is restricted as the run's own, and mounts what the target gives every run: its volumes and
    model cache, and /tmp.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.name != '{RUN_CONTAINER}'",
            message="runner is the container of the run itself: take another name",
            check=lambda given: given.name != RUN_CONTAINER,
            field="name",
        ),
    )

    name: DnsLabel = Field(description="Name of the container.")
    image: ImageName = Field(
        description="Its image; imagePullSecrets of the target are for it, too.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="Kubernetes' rule when absent: Always for latest."
    )
    command: Words | None = Field(
        default=None, description="Program and first arguments. Default: as the image says."
    )
    args: Words | None = Field(
        default=None, description="Arguments. Default: as the image says, without command."
    )
    env: Annotated[list[EnvVar], *keyed_by("name")] | None = Field(
        default=None,
        max_length=64,
        description="Its environment. That of runs, and their credentials, it isn't given.",
    )
    resources: InitResources = Field(
        default=InitResources.model_construct(),
        description="Requests and limits. Default 500m CPUs and 512Mi.",
    )


class PodTemplate(Value):
    """What pods of trainings, evaluations and inspections have besides."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _owned("labels"),
        _owned("annotations"),
        _without(
            "annotations",
            SECURITY_KEYS,
            "annotations that change how a container is confined are refused: pods of runs are"
            " restricted",
        ),
        Rule(
            cel="!has(self.extendedResources) || self.extendedResources.all(name,"
            " !name.contains('kubernetes.io/') && !name.startsWith('requests.'))",
            message="names of kubernetes.io and those that begin with requests. are Kubernetes'"
            " own, no extended resources",
            check=lambda given: (
                not any(
                    "kubernetes.io/" in name or name.startswith("requests.")
                    for name in given.extended_resources or ()
                )
            ),
            field="extendedResources",
        ),
        Rule(
            cel="!has(self.topologySpreadConstraints) ||"
            " self.topologySpreadConstraints.all(one,"
            " self.topologySpreadConstraints.exists_one(other,"
            " one.topologyKey == other.topologyKey &&"
            " one.whenUnsatisfiable == other.whenUnsatisfiable))",
            message="two constraints have the same topologyKey and whenUnsatisfiable: leave one"
            " out",
            check=lambda given: _differ(given.topology_spread_constraints or []),
            field="topologySpreadConstraints",
        ),
    )

    labels: Labels | None = Field(
        default=None, description="Labels of the pods, besides those of kubetune."
    )
    annotations: Annotations | None = Field(
        default=None, description="Annotations of the pods, besides those of kubetune."
    )
    affinity: Affinity | None = Field(
        default=None,
        description="Nodes by further conditions than nodeSelector, and by other pods.",
    )
    topology_spread_constraints: list[TopologySpreadConstraint] | None = Field(
        default=None, max_length=8, description="How evenly pods are spread over nodes or zones."
    )
    scheduler_name: ObjectName | None = Field(
        default=None, description="Scheduler of the pods. Default: the cluster's own."
    )
    extended_resources: ExtendedResources | None = Field(
        default=None,
        description="Limits of trainings and evaluations by resource, such as rdma/hca: 1,"
        " vpc.amazonaws.com/efa: 4 or nvidia.com/mig-1g.10gb: 1; each pod gets as much. Inspections"
        " go without. GPUs are resources.gpu.",
    )
    init_containers: Annotated[list[InitContainer], *keyed_by("name")] | None = Field(
        default=None,
        max_length=8,
        description="Containers that end one after another before the run begins.",
    )


def _differ(constraints: list[TopologySpreadConstraint]) -> bool:
    known = {(each.topology_key, each.when_unsatisfiable) for each in constraints}
    return len(known) == len(constraints)

"""References to kinds that exist in a namespaced and in a cluster-wide form."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kubetune.api.schema.base import ObjectName, Value


class ComputeTargetRef(Value):
    """Where to run. Without one: the namespace's default target, then the cluster's."""

    kind: Literal["ComputeTarget", "ClusterComputeTarget"] = Field(
        default="ComputeTarget",
        description="ComputeTarget (same namespace) or ClusterComputeTarget."
        " Default ComputeTarget.",
    )
    name: ObjectName = Field(description="Name of the target.")


class TuningProfileRef(Value):
    """Reusable settings that a job starts from."""

    kind: Literal["TuningProfile", "ClusterTuningProfile"] = Field(
        default="TuningProfile",
        description="TuningProfile (same namespace) or ClusterTuningProfile."
        " Default TuningProfile.",
    )
    name: ObjectName = Field(description="Name of the profile.")

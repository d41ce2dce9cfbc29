"""Status of a target: what its probe found."""

from __future__ import annotations

from pydantic import Field

from kubetune.api.kinds.status import ObjectStatus
from kubetune.api.schema.base import Value


class CmlAccelerator(Value):
    """An accelerator label of a CML workspace."""

    key: str = Field(description="Key, for resources.gpuLabel.")
    value: str = Field(description="Value, for resources.gpuLabel.")
    max_per_workload: int | None = Field(default=None, description="Most GPUs that a run gets.")
    free: int | None = Field(default=None, description="GPUs that nobody uses now.")


class CmlQuota(Value):
    """Quota of the key's user; CPUs, gigabytes and GPUs."""

    cpu: str | None = Field(default=None, description="CPUs, used/allowed.")
    memory: str | None = Field(default=None, description="Gigabytes, used/allowed.")
    gpu: str | None = Field(default=None, description="GPUs, used/allowed.")


class CmlWorkspaceStatus(Value):
    """What a CML workspace offers to the target."""

    project_id: str | None = Field(default=None, description="Id of the project.")
    runtime: str | None = Field(default=None, description="Identifier of the runtime in use.")
    accelerators: list[CmlAccelerator] | None = Field(
        default=None, max_length=32, description="Accelerator labels, at most 32."
    )
    quota: CmlQuota | None = Field(default=None, description="Quota of the key's user.")
    variables: list[str] | None = Field(
        default=None,
        max_length=100,
        description="Names of the project's variables, at most 100; never their values.",
    )


class ComputeTargetStatus(ObjectStatus):
    """Status of a ComputeTarget or ClusterComputeTarget."""

    tracking_version: str | None = Field(default=None, description="Version of the MLflow server.")
    workspace: CmlWorkspaceStatus | None = Field(
        default=None, description="What the CML workspace offers."
    )

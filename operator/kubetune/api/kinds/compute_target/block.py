"""What the blocks of a ComputeTarget, one for each type of target, have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from kubetune.api.schema.base import ObjectName, Value
from kubetune.api.schema.kubernetes_values import LabelKey, LabelValue


class CaBundle(Value):
    """Certificates of a private authority, PEM, in a ConfigMap."""

    config_map_name: ObjectName = Field(description="ConfigMap in the job's namespace.")
    key: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="ca.crt", description="Key with PEM certificates. Default ca.crt."
    )


class GpuLabel(Value):
    """A label that resources.gpuLabel of whoever uses the target may set."""

    key: LabelKey = Field(description="Key, such as nvidia.com/gpu.product.")
    values: list[LabelValue] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Values that it may have. Default: any.",
    )

    def allows(self, key: str, value: str) -> bool:
        """Whether a label is this one."""
        return key == self.key and (self.values is None or value in self.values)


class TargetBlock(Value):
    """The block of a ComputeTarget that one type of target has for itself.

    The properties have answers that suit runs in this cluster.
    """

    @property
    def address(self) -> tuple[str, ...]:
        """What tells one place outside of the cluster from another; empty in the cluster."""
        return ()

    @property
    def run_image(self) -> str | None:
        """The image of runs; None where that isn't known beforehand."""
        return None

    @property
    def place_name(self) -> str:
        """The place outside of the cluster, for logs."""
        return ""

    @property
    def access_secrets(self) -> Sequence[tuple[str, str]]:
        """Secrets, and the key in each, with which the place is reached."""
        return ()

    @property
    def access_bundles(self) -> Sequence[CaBundle]:
        """Certificates with which the place is reached."""
        return ()

    @property
    def run_secrets(self) -> Sequence[tuple[str, str]]:
        """Secrets that every run is given, and the key in each, empty for all of them."""
        return ()

    @property
    def plain_variables(self) -> Sequence[str]:
        """Variables of every run whose values are no secret."""
        return ()

    @property
    def run_claims(self) -> Sequence[str]:
        """Claims that every run mounts."""
        return ()

    @property
    def run_account(self) -> str:
        """Service account that runs have; empty for the one that everybody has."""
        return ""

    @property
    def fixed_labels(self) -> Mapping[str, str]:
        """Labels of a node that nobody else may choose."""
        return {}

    @property
    def allowed_labels(self) -> Sequence[GpuLabel] | None:
        """What resources.gpuLabel may set; None: whatever the place offers."""
        return None

    @property
    def mount_paths(self) -> Sequence[str]:
        """Directories of every run on which something is mounted."""
        return ()

    def judge_key_problem(self, variable: str, address: str) -> str:
        """Why a judge's key that is there already can't be sent to an address; empty if it can."""
        return ""


class RecordedBlock(Value):
    """What a status keeps of a block: what finding the runs again takes."""

    @property
    @abstractmethod
    def address(self) -> tuple[str, ...]:
        """As that of the block."""

    @abstractmethod
    def as_block(self, external: Mapping[str, Any]) -> TargetBlock:
        """The block as following runs takes it; ``external`` is the status.external around it."""

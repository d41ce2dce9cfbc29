"""The few core/v1 shapes that a compute target may carry, with Kubernetes' own names."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from kubetune.api.schema.base import DNS_LABEL, ConfigKey, ObjectName, Value, without_nulls
from kubetune.api.schema.rules import Rule, at_most_one, exactly_one

Quantity = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
    ),
]
"""A Kubernetes quantity as text, such as `500m` or `4Gi`."""
WholeQuantity = Annotated[
    str, Field(min_length=1, max_length=18, pattern=r"^[1-9][0-9]*(k|M|G|T|Ki|Mi|Gi|Ti)?$")
]
"""A quantity of things that can't be split: devices, or bytes of memory that is one."""

ImageName = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[!-~]+$")]

LabelValue = Annotated[
    str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
]
_DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUALIFIED = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=rf"^({_DOMAIN}/)?{_QUALIFIED}$",
        description="a label key is a name of at most 63 letters, digits, -, _ and ., with a"
        " lower-case domain and / before it where it has one",
    ),
]
ExtendedResource = Annotated[
    str,
    Field(
        min_length=3,
        max_length=200,
        pattern=rf"^{_DOMAIN}/{_QUALIFIED}$",
        description="an extended resource is a lower-case domain, / and a name, such as rdma/hca;"
        " CPUs and memory are resources.cpu and resources.memory",
    ),
]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32), BeforeValidator(without_nulls)]
"""Labels that a node must have, at most 32."""

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]


class ConfigMapKeyRef(Value):
    """One key of a ConfigMap in the run's namespace."""

    name: ObjectName = Field(description="ConfigMap in the run's namespace.")
    key: ConfigKey = Field(description="Key in its data.")


class SecretKeySelector(Value):
    """One key of a Secret in the job's namespace."""

    name: ObjectName = Field(description="Secret in the job's namespace.")
    key: ConfigKey = Field(description="Key in its data.")


class EnvVarSource(Value):
    """Where an environment variable's value comes from."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("config_map_key_ref", "secret_key_ref"),)

    config_map_key_ref: ConfigMapKeyRef | None = Field(
        default=None, description="A ConfigMap's key."
    )
    secret_key_ref: SecretKeySelector | None = Field(default=None, description="A Secret's key.")


class EnvVar(Value):
    """One environment variable."""

    rules: ClassVar[tuple[Rule, ...]] = (at_most_one("value", "value_from"),)

    name: str = Field(
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name, such as HF_ENDPOINT.",
    )
    value: str | None = Field(default=None, max_length=8192, description="Literal value.")
    value_from: EnvVarSource | None = Field(
        default=None, description="Value from a ConfigMap or Secret; use it for credentials."
    )


class NamedRef(Value):
    """A ConfigMap or Secret by name in the job's namespace."""

    name: ObjectName = Field(description="Name in the job's namespace.")


class EnvFromSource(Value):
    """All keys of a ConfigMap or Secret as environment variables."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one("config_map_ref", "secret_ref"),)

    config_map_ref: NamedRef | None = Field(default=None, description="A ConfigMap.")
    secret_ref: NamedRef | None = Field(default=None, description="A Secret.")


class Toleration(Value):
    """A taint that the pods accept."""

    key: str | None = Field(default=None, max_length=317, description="Taint key.")
    operator: Literal["Equal", "Exists"] | None = Field(
        default=None, description="Equal or Exists. Kubernetes takes Equal when absent."
    )
    value: LabelValue | None = Field(default=None, description="Taint value for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect; all effects when absent."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Seconds a NoExecute taint is tolerated."
    )


class VolumeMount(Value):
    """A PersistentVolumeClaim mounted into every run."""

    name: DnsLabel = Field(description="Name of the volume, unique in the target.")
    claim_name: ObjectName = Field(description="PersistentVolumeClaim in the job's namespace.")
    mount_path: str = Field(
        min_length=2, max_length=1024, pattern=r"^/", description="Absolute path in the container."
    )
    read_only: bool = Field(default=False, description="Mount read-only. Default false.")

"""How runs look as Kubernetes Jobs in this cluster."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.kinds.compute_target.block import GpuLabel, TargetBlock
from kubetune.api.kinds.compute_target.pod_template import PodTemplate
from kubetune.api.schema.base import LocalRef, ObjectName, Value, keyed_by
from kubetune.api.schema.kubernetes_values import (
    EnvFromSource,
    EnvVar,
    ExtendedResource,
    ImageName,
    Labels,
    Quantity,
    Toleration,
    VolumeMount,
)
from kubetune.api.schema.rules import Rule
from kubetune.api.training.settings import Resources

DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"


class ModelCache(Value):
    """A claim that keeps downloaded models and datasets between runs."""

    claim_name: ObjectName = Field(
        description="PersistentVolumeClaim in the job's namespace. Runs share it as HF_HOME."
    )


class KubernetesTarget(TargetBlock):
    """How runs look as Kubernetes Jobs in the namespace of the FineTuneJob."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.nodeSelector) || !has(self.resources) ||"
            " !has(self.resources.gpuLabel) || self.resources.gpuLabel.all(key,"
            " !(key in self.nodeSelector) ||"
            " self.nodeSelector[key] == self.resources.gpuLabel[key])",
            message="nodeSelector and resources.gpuLabel give one label two values",
            check=lambda block: all(
                (block.node_selector or {}).get(key, value) == value
                for key, value in ((block.resources and block.resources.gpu_label) or {}).items()
            ),
        ),
        Rule(
            cel="!has(self.podTemplate) || !has(self.podTemplate.extendedResources) ||"
            f" !('{DEFAULT_GPU_RESOURCE}' in self.podTemplate.extendedResources ||"
            " self.gpuResourceName in self.podTemplate.extendedResources)",
            message="podTemplate.extendedResources asks for whole GPUs: ask by resources.gpu, and"
            " name the resource in gpuResourceName",
            check=lambda block: (
                not {DEFAULT_GPU_RESOURCE, block.gpu_resource_name}.intersection(
                    (block.pod_template and block.pod_template.extended_resources) or ()
                )
            ),
            field="podTemplate",
        ),
    )

    image: ImageName = Field(
        description="Runner image. The Helm chart's default target names the released one.",
    )
    axolotl_image: ImageName | None = Field(
        default=None,
        description="Image for jobs with trainer.axolotl. Default: image.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="Kubernetes' rule when absent: Always for latest."
    )
    image_pull_secrets: list[LocalRef] | None = Field(
        default=None, max_length=16, description="Secrets for a private image registry."
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="Service account of the pods, with label kubetune.io/use=target. Runs need no"
        " Kubernetes rights, and no token is mounted. Default: the namespace's `default`.",
    )
    node_selector: Labels | None = Field(
        default=None,
        description="Labels a node must have. What it says of a key no job can change.",
    )
    gpu_labels: Annotated[list[GpuLabel], *keyed_by("key")] | None = Field(
        default=None,
        max_length=32,
        description="Node labels that resources.gpuLabel of jobs, profiles and Evaluations may"
        " set. Default: none but those of nodeSelector and resources, with their values.",
    )
    tolerations: list[Toleration] | None = Field(
        default=None, max_length=32, description="Taints that the pods accept."
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of the pods."
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="RuntimeClass of the pods, such as nvidia."
    )
    gpu_resource_name: ExtendedResource = Field(
        default=DEFAULT_GPU_RESOURCE,
        description="Extended resource that a GPU is asked for by. Default nvidia.com/gpu.",
    )
    pod_template: PodTemplate | None = Field(
        default=None,
        description="What pods of later attempts have besides. What kubetune says of a pod can't be"
        " changed: users, rights, volumes, network, command.",
    )
    resources: Resources | None = Field(
        default=None, description="Resources of a run that neither job nor profile states."
    )
    ephemeral_storage: Quantity | None = Field(
        default=None,
        description="Disk of the node that pods of trainings and evaluations ask for, for downloads"
        " without modelCache, checkpoints without a claim, and results. Default: none.",
    )
    volumes: Annotated[list[VolumeMount], *keyed_by("name")] | None = Field(
        default=None, max_length=16, description="Further claims mounted into every run."
    )
    model_cache: ModelCache | None = Field(
        default=None,
        description="Claim that keeps downloads between runs. Default: each run downloads again.",
    )
    env: Annotated[list[EnvVar], *keyed_by("name")] | None = Field(
        default=None,
        max_length=64,
        description="Environment of every run, for mirrors, proxies and artifact stores.",
    )
    env_from: list[EnvFromSource] | None = Field(
        default=None, max_length=16, description="Environment from ConfigMaps and Secrets."
    )

    @property
    def run_secrets(self) -> list[tuple[str, str]]:
        """Those of its environment, and for its image registry."""
        variables = [*(self.env or ()), *self._init_variables]
        sources = [variable.value_from for variable in variables if variable.value_from]
        keys = [source.secret_key_ref for source in sources if source.secret_key_ref]
        whole = [source.secret_ref for source in self.env_from or () if source.secret_ref]
        named = [(key.name, key.key) for key in keys]
        return named + [(ref.name, "") for ref in (*whole, *(self.image_pull_secrets or ()))]

    @property
    def _init_variables(self) -> list[EnvVar]:
        containers = (self.pod_template and self.pod_template.init_containers) or ()
        return [variable for container in containers for variable in container.env or ()]

    @property
    def plain_variables(self) -> list[str]:
        """Those of env that aren't from Secrets."""
        return [
            variable.name
            for variable in self.env or ()
            if not (variable.value_from and variable.value_from.secret_key_ref)
        ]

    @property
    def run_claims(self) -> list[str]:
        """Those of its volumes, and of its model cache."""
        cache = [self.model_cache.claim_name] if self.model_cache else []
        return [volume.claim_name for volume in self.volumes or ()] + cache

    @property
    def run_account(self) -> str:
        """Any pod has the one called default."""
        name = self.service_account_name
        return name if name and name != "default" else ""

    @property
    def run_image(self) -> str:
        """The image, as the target names it."""
        return self.image

    @property
    def fixed_labels(self) -> Labels:
        """Those of its node selector."""
        return self.node_selector or {}

    @property
    def allowed_labels(self) -> list[GpuLabel]:
        """What the admin lists."""
        return self.gpu_labels or []

    @property
    def mount_paths(self) -> list[str]:
        """Those of its volumes."""
        return [volume.mount_path for volume in self.volumes or ()]

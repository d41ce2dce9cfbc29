"""Kinds ComputeTarget and ClusterComputeTarget: where jobs run and where they report."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.kinds.compute_target.allowed import Allowed
from kubetune.api.kinds.compute_target.block import CaBundle, GpuLabel, TargetBlock
from kubetune.api.kinds.compute_target.cml import CmlTarget, VariableName
from kubetune.api.schema.addresses import HttpAddress
from kubetune.api.schema.base import DNS_LABEL, LocalRef, ObjectName, Value, keyed_by
from kubetune.api.schema.kubernetes_values import (
    EnvFromSource,
    EnvVar,
    Labels,
    Toleration,
    VolumeMount,
)
from kubetune.api.schema.registry_names import RegistryName
from kubetune.api.schema.rules import (
    Rule,
    TransitionRule,
    exactly_one,
    no_credentials,
    same_choice,
)
from kubetune.api.training.settings import Resources

DEFAULT_GPU_RESOURCE = "nvidia.com/gpu"
CML_TRACKING_URI = "cml://localhost"
"""The workspace's tracking server, as MLflow inside a workload knows it."""
DEFAULT_TARGET_ANNOTATION = "kubetune.io/is-default-target"
"""``"true"`` on a ComputeTarget: its namespace's default; on a ClusterComputeTarget: everyone's."""


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
    )

    image: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[!-~]+$",
        description="Runner image. The Helm chart's default target names the released one.",
    )
    axolotl_image: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        pattern=r"^[!-~]+$",
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
    gpu_resource_name: Annotated[str, Field(min_length=1, max_length=317)] = Field(
        default=DEFAULT_GPU_RESOURCE,
        description="Extended resource that a GPU is asked for by. Default nvidia.com/gpu.",
    )
    resources: Resources | None = Field(
        default=None, description="Resources of a run that neither job nor profile states."
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
        sources = [variable.value_from for variable in self.env or () if variable.value_from]
        keys = [source.secret_key_ref for source in sources if source.secret_key_ref]
        whole = [source.secret_ref for source in self.env_from or () if source.secret_ref]
        named = [(key.name, key.key) for key in keys]
        return named + [(ref.name, "") for ref in (*whole, *(self.image_pull_secrets or ()))]

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


NamespaceName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]


class RegistrySharing(Value):
    """What namespaces share of the registry, and whom they believe; at least one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.prefix) || has(self.allowedNames) || has(self.trustedNamespaces)",
            message="give prefix, allowedNames or trustedNamespaces",
            check=lambda given: (
                given.prefix is not None
                or given.allowed_names is not None
                or given.trusted_namespaces is not None
            ),
        ),
    )

    prefix: RegistryName | None = Field(
        default=None, description="Names that begin like this are shared."
    )
    allowed_names: list[RegistryName] | None = Field(
        default=None, min_length=1, max_length=64, description="Names that are shared."
    )
    trusted_namespaces: list[NamespaceName] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Namespaces whose registered models others on this target may read, and whose"
        " versions and measurements they reuse, where they are signed. Default: none; each reads"
        " and reuses its own.",
    )


class Tracking(Value):
    """The server that runs report to and results are registered in."""

    type: Literal["mlflow", "cml"] = Field(
        default="mlflow",
        description="mlflow: an MLflow server at uri. cml: the workspace's own experiments and"
        " model registry, on targets of type cml only. Default mlflow.",
    )
    uri: HttpAddress | None = Field(
        default=None,
        description="Address of the MLflow server as operator and runs reach it. Credentials in it"
        " are refused.",
    )
    external_uri: HttpAddress | None = Field(
        default=None,
        description="Address for the links in status. Default: uri.",
    )
    experiment: str | None = Field(
        default=None,
        min_length=1,
        max_length=250,
        description="Experiment of trainings and evaluations; inspections have one of this name"
        " with -inspections. Default: kubetune-<namespace>.",
    )
    credentials_secret_ref: LocalRef | None = Field(
        default=None,
        description="Secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or with"
        " MLFLOW_TRACKING_TOKEN: for a ComputeTarget in its namespace, for a"
        " ClusterComputeTarget in each job's. Runs on CML take them from project variables.",
    )
    ca_bundle: CaBundle | None = Field(
        default=None, description="Certificates of the server's private authority."
    )

    registry: RegistrySharing | None = Field(
        default=None,
        description="Registered models that all namespaces may read, register versions of and move"
        " aliases of, and namespaces that others read and believe. Default: none; each model"
        " belongs to the namespace that registers the first version.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        no_credentials("uri", "use credentialsSecretRef"),
        Rule(
            cel="self.type == 'cml' || has(self.uri)",
            message="give the address of the MLflow server",
            check=lambda tracking: tracking.type == "cml" or tracking.uri is not None,
            field="uri",
        ),
        Rule(
            cel="self.type != 'cml' || !(has(self.uri) || has(self.credentialsSecretRef) ||"
            " has(self.caBundle))",
            message="type cml uses address, key and certificates of spec.cml: leave uri,"
            " credentialsSecretRef and caBundle out",
            check=lambda tracking: (
                tracking.type != "cml"
                or not (tracking.uri or tracking.credentials_secret_ref or tracking.ca_bundle)
            ),
        ),
    )

    @property
    def run_uri(self) -> str:
        """The address that runs are given."""
        return self.uri or CML_TRACKING_URI

    def shares(self, name: str) -> bool:
        """Whether a registered model is for all namespaces."""
        sharing = self.registry
        if sharing is None:
            return False
        begins = sharing.prefix is not None and name.startswith(sharing.prefix)
        return begins or name in (sharing.allowed_names or ())

    @property
    def trusted_namespaces(self) -> tuple[str, ...]:
        """Namespaces that others on this target believe."""
        return tuple((self.registry.trusted_namespaces if self.registry else None) or ())

    def experiment_in(self, namespace: str) -> str:
        """Name of the experiment that the runs of a namespace report to."""
        return self.experiment or f"kubetune-{namespace}"

    def inspections_in(self, namespace: str) -> str:
        """Name of the experiment of inspections, which aren't runs to compare."""
        return f"{self.experiment_in(namespace)}-inspections"


BLOCKS = ("kubernetes", "cml")
"""Fields of which one is given: its name is the type of the target."""


class ComputeTargetSpec(Value):
    """What the admin declares."""

    transitions: ClassVar[tuple[TransitionRule, ...]] = (
        same_choice(
            *BLOCKS,
            hint="runs continue where they were started; make another target, and delete this one"
            " when nothing runs there",
        ),
    )
    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one(*BLOCKS),
        Rule(
            cel="self.tracking.type != 'cml' || has(self.cml)",
            message="type cml needs a target in CML: give spec.cml, or type mlflow and its uri",
            check=lambda spec: spec.tracking.type != "cml" or spec.cml is not None,
            field="tracking",
        ),
        Rule(
            cel="!has(self.ownCodeVariables) ||"
            " self.ownCodeVariables.all(name, !name.startsWith('KUBETUNE_'))",
            message="variables that begin with KUBETUNE_ are the run's own",
            check=lambda spec: (
                not any(name.startswith("KUBETUNE_") for name in spec.own_code_variables or ())
            ),
            field="ownCodeVariables",
        ),
    )

    kubernetes: KubernetesTarget | None = Field(
        default=None, description="Runs are Kubernetes Jobs in this cluster."
    )
    cml: CmlTarget | None = Field(
        default=None, description="Runs are jobs of a Cloudera Machine Learning workspace."
    )
    tracking: Tracking = Field(description="Where runs report and results are registered.")
    allowed: Allowed | None = Field(
        default=None,
        description="Secrets and claims, in the namespace of each who uses the target, that need no"
        " label kubetune.io/use of their own. Default: none; their owners label each.",
    )

    own_code: Literal["Allowed", "Refused"] | None = Field(
        default=None,
        description="Code of users: trainer.script, trainer.axolotl, metric functions, tasks with"
        " files of their own, and trustRemoteCode of Models. Refused: nothing with any of it is"
        " started. Default Allowed in the cluster, where pods are restricted, and Refused in CML,"
        " where it would have the rights of the key's owner in the project.",
    )
    own_code_variables: list[VariableName] | None = Field(
        default=None,
        max_length=64,
        description="Variables of runs, such as MLFLOW_TRACKING_TOKEN, that scripts, axolotl and"
        " metric functions are given besides those that env states plainly. Default: none, so no"
        " credentials.",
    )

    @cached_property
    def type(self) -> str:
        """The type of target; what a status records of runs in this cluster has no block."""
        given = (name for name in BLOCKS if getattr(self, name) is not None)
        return next(given, BLOCKS[0])

    @property
    def block(self) -> TargetBlock | None:
        """What its type of target needs to know."""
        return getattr(self, self.type)

    @property
    def address(self) -> tuple[str, ...]:
        """What tells one place outside of the cluster from another; empty in the cluster."""
        return self.block.address if self.block else ()

    @property
    def resources(self) -> Resources | None:
        """Resources of a run that neither job nor profile states."""
        return getattr(self.block, "resources", None)

    @property
    def code_variables(self) -> list[str]:
        """Variables of runs that code of users is given."""
        plain = self.block.plain_variables if self.block else ()
        return [*plain, *(self.own_code_variables or ())]

    @property
    def tracking_uri(self) -> str:
        """The address of the tracking server as the operator reaches it."""
        inside = self.cml if self.tracking.type == "cml" else None
        return inside.url if inside else self.tracking.run_uri

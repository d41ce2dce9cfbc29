"""Kinds ComputeTarget and ClusterComputeTarget: where jobs run and where they report."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.kinds.compute_target.allowed import Allowed
from kubetune.api.kinds.compute_target.block import CaBundle, TargetBlock
from kubetune.api.kinds.compute_target.cml import CmlTarget, VariableName
from kubetune.api.kinds.compute_target.kubernetes import KubernetesTarget
from kubetune.api.schema.addresses import HttpAddress
from kubetune.api.schema.base import DNS_LABEL, LocalRef, Value
from kubetune.api.schema.registry_names import RegistryName
from kubetune.api.schema.rules import (
    Rule,
    TransitionRule,
    exactly_one,
    no_credentials,
    same_choice,
)
from kubetune.api.training.settings import Resources

CML_TRACKING_URI = "cml://localhost"
"""The workspace's tracking server, as MLflow inside a workload knows it."""
DEFAULT_TARGET_ANNOTATION = "kubetune.io/is-default-target"
"""``"true"`` on a ComputeTarget: its namespace's default; on a ClusterComputeTarget: everyone's."""


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

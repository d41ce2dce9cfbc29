"""Kind Model: a base model or an adapter, wherever it is kept."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubetune.api.schema.base import HubRepo, LocalRef, ObjectName, SecretKeyRef, Value
from kubetune.api.schema.referenced import Reference
from kubetune.api.schema.references import ComputeTargetRef
from kubetune.api.schema.registry_names import (
    RegistryAlias,
    RegistryName,
    not_reserved,
    registrable,
)
from kubetune.api.schema.rules import Rule, exactly_one

RegistryProvider = Literal["mlflow", "cml"]
PROVIDER = (
    "Registry: mlflow or cml, the one of the target's spec.tracking. Default: that one; another is"
    " refused, since runs can't reach it."
)


class HuggingFaceModel(Value):
    """A model repository of a Hugging Face hub."""

    repo: HubRepo = Field(description="Repository, `owner/name`.")
    revision: str = Field(
        default="main",
        min_length=1,
        max_length=255,
        description="Branch, tag or commit. Resolved once to a commit. Default main.",
    )
    token_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Access token for private or gated repositories."
    )


class VolumePath(Value):
    """A folder on a PersistentVolumeClaim."""

    claim_name: ObjectName = Field(
        description="PersistentVolumeClaim in the same namespace; mounted read-only."
    )
    path: str = Field(
        default=".",
        min_length=1,
        max_length=1024,
        pattern=r"^[^/]",
        description="Folder relative to the volume's root. Default: the root.",
    )


class ProjectPath(Value):
    """A folder of the CML project that the compute target names."""

    path: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^/]",
        description="Folder relative to the project's root.",
    )


FilesDigest = Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]


class RegisteredVersion(Value):
    """A version in the model registry of the compute target's tracking server."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("version", "alias"),
        registrable(),
        not_reserved(),
    )

    provider: RegistryProvider | None = Field(default=None, description=PROVIDER)
    name: RegistryName = Field(description="Registered model.")
    version: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Version number; or give an alias."
    )
    files_digest: FilesDigest | None = Field(
        default=None,
        description="Digest of the list of its files, kubetune_files.json, as status.result of the"
        " FineTuneJob has it: runs refuse other files. Output Models have it.",
    )
    alias: RegistryAlias | None = Field(
        default=None, description="Alias, resolved once to a version; or give a version."
    )


class ModelSource(Value):
    """Where the model is kept; exactly one."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one("hugging_face", "volume", "project", "registry", "fine_tune_job"),
    )

    hugging_face: HuggingFaceModel | None = Field(
        default=None, description="A model repository of a Hugging Face hub."
    )
    volume: VolumePath | None = Field(
        default=None, description="A folder on a PersistentVolumeClaim."
    )
    project: ProjectPath | None = Field(
        default=None, description="A folder of the CML project; on targets of type cml."
    )
    registry: RegisteredVersion | None = Field(
        default=None, description="A version in the tracking server's model registry."
    )
    fine_tune_job: LocalRef | None = Field(
        default=None, description="The output of a FineTuneJob in the same namespace."
    )

    @property
    def token(self) -> SecretKeyRef | None:
        """The access token that a run reads it with."""
        return self.hugging_face.token_secret_ref if self.hugging_face else None


class ModelSpec(Value):
    """What the user declares."""

    references: ClassVar[tuple[Reference, ...]] = (
        Reference("computeTargetRef", "ComputeTarget", or_default=True),
        Reference("baseModelRef", "Model"),
        Reference("source.fineTuneJob", "FineTuneJob"),
    )

    source: ModelSource = Field(description="Where the model is kept; exactly one.")
    base_model_ref: LocalRef | None = Field(
        default=None,
        description="The Model that an adapter was trained on. Needed for adapters only.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run Python code that the repository ships. Default false; the code gets"
        " everything that a training pod can reach.",
    )
    compute_target_ref: ComputeTargetRef | None = Field(
        default=None, description="Where the inspection runs. Default: the default target."
    )

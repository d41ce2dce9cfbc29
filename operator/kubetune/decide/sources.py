"""Sources of datasets and models as the plan names them, and what must be mounted for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.dataset.sources import CsvOptions
from kubetune.api.kinds.dataset.spec import ColumnMapping, DatasetSpec, Splits
from kubetune.api.kinds.model.spec import ModelSpec
from kubetune.api.kinds.prompt_template.spec import PromptTemplateSpec
from kubetune.api.run.plan import (
    BASE_MODEL_DIRECTORY,
    DATASET_DIRECTORY,
    ENV_BASE_MODEL_TOKEN,
    ENV_DATASET_TOKEN,
    ENV_MODEL_TOKEN,
    MODEL_DIRECTORY,
    PLAN_DIRECTORY,
    PROJECT_DIRECTORY,
    DatasetPlan,
    FilesSource,
    HttpSource,
    HubSource,
    ModelPlan,
    PromptPlan,
)
from kubetune.api.schema.base import SecretKeyRef


@dataclass(frozen=True)
class Mounts:
    """What a run needs beside its plan; fields as in targets.contract.RunRequest."""

    inline_rows: list[JsonObject] | None = None
    dataset_claim: str | None = None
    dataset_config_map: tuple[str, str] | None = None
    model_claim: str | None = None
    base_model_claim: str | None = None
    project: bool = False
    """Reads files of the CML project."""
    tokens: dict[str, SecretKeyRef] = field(default_factory=dict[str, SecretKeyRef])

    def of_request(self) -> dict[str, Any]:
        """The fields of a RunRequest."""
        return {
            "inline_rows": self.inline_rows,
            "dataset_claim": self.dataset_claim,
            "dataset_config_map": self.dataset_config_map,
            "model_claim": self.model_claim,
            "base_model_claim": self.base_model_claim,
            "tokens": self.tokens,
        }

    def __or__(self, other: Mounts) -> Mounts:
        return Mounts(
            inline_rows=self.inline_rows or other.inline_rows,
            dataset_claim=self.dataset_claim or other.dataset_claim,
            dataset_config_map=self.dataset_config_map or other.dataset_config_map,
            model_claim=self.model_claim or other.model_claim,
            base_model_claim=self.base_model_claim or other.base_model_claim,
            project=self.project or other.project,
            tokens=self.tokens | other.tokens,
        )


def dataset_source(
    name: str, spec: DatasetSpec, status: JsonObject | None = None
) -> tuple[DatasetPlan, Mounts]:
    """The dataset for a plan; with the status of a ready Dataset its digests and revision too."""
    found = status or {}
    source = spec.source
    common: JsonObject = {
        "name": name,
        "format": spec.format,
        "columns": spec.columns or ColumnMapping(),
        "splits": spec.splits or Splits(),
        "digest": found.get("digest"),
        "splitDigest": found.get("splitDigest"),
        # An inspection's key is made of its plan, and asks for nothing new.
        "source": dataset_line(spec) if status else None,
    }
    # An inspection only counts, so that another policy needs no other one.
    if status and spec.checks and spec.checks.hidden_parts == "Refuse":
        common["refuseHidden"] = True
    common = {key: value for key, value in common.items() if value is not None}
    if hub := source.hugging_face:
        place = HubSource(
            repo=hub.repo,
            revision=found.get("revision") or hub.revision,
            config=hub.config,
            delimiter=_delimiter(hub.csv),
        )
        tokens = {ENV_DATASET_TOKEN: hub.token_secret_ref} if hub.token_secret_ref else {}
        return DatasetPlan(hub=place, **common), Mounts(tokens=tokens)
    if volume := source.volume:
        files = FilesSource(
            directory=DATASET_DIRECTORY,
            glob=volume.glob,
            format=volume.format,
            delimiter=_delimiter(volume.csv),
        )
        return DatasetPlan(files=files, **common), Mounts(dataset_claim=volume.claim_name)
    if project := source.project:
        files = FilesSource(
            directory=PROJECT_DIRECTORY,
            glob=project.glob,
            format=project.format,
            delimiter=_delimiter(project.csv),
        )
        return DatasetPlan(files=files, **common), Mounts(project=True)
    if http := source.http:
        address = HttpSource(url=http.url, format=http.format, delimiter=_delimiter(http.csv))
        return DatasetPlan(http=address, **common), Mounts()
    if config := source.config_map:
        files = FilesSource(
            directory=DATASET_DIRECTORY,
            glob=config.key,
            format=config.format,
            delimiter=_delimiter(config.csv),
        )
        mounts = Mounts(dataset_config_map=(config.name, config.key))
        return DatasetPlan(files=files, **common), mounts
    assert source.inline is not None
    files = FilesSource(directory=PLAN_DIRECTORY, glob="rows.jsonl", format="jsonl")
    return DatasetPlan(files=files, **common), Mounts(inline_rows=source.inline.rows)


def _delimiter(csv: CsvOptions | None) -> str | None:
    return csv.delimiter if csv else None


def dataset_line(spec: DatasetSpec) -> str:
    """The source in one line, for status."""
    source = spec.source
    if hub := source.hugging_face:
        return f"hf://{hub.repo}@{hub.revision}" + (f" ({hub.config})" if hub.config else "")
    if volume := source.volume:
        return f"pvc://{volume.claim_name}/{volume.glob}"
    if source.project:
        return f"project://{source.project.glob}"
    if source.http:
        return source.http.url
    if config := source.config_map:
        return f"configmap://{config.name}/{config.key}"
    assert source.inline is not None
    return f"inline ({len(source.inline.rows)} rows)"


def model_source(
    name: str,
    spec: ModelSpec,
    status: JsonObject | None = None,
    *,
    registry_uri: str | None = None,
    base: tuple[str, ModelSpec, JsonObject] | None = None,
    base_registry_uri: str | None = None,
) -> tuple[ModelPlan, Mounts]:
    """The model for a plan.

    ``registry_uri`` is where the output of a FineTuneJob is kept; ``base`` is name, spec and
    status of an adapter's base model, which may not be an adapter itself, and
    ``base_registry_uri`` the like of it.
    """
    plan, claim, token = _one_model(name, spec, status or {}, MODEL_DIRECTORY, registry_uri)
    mounts = Mounts(
        model_claim=claim,
        project=spec.source.project is not None,
        tokens={ENV_MODEL_TOKEN: token} if token else {},
    )
    if base is None:
        return plan, mounts
    base_plan, base_claim, base_token = _one_model(*base, BASE_MODEL_DIRECTORY, base_registry_uri)
    tokens = {ENV_BASE_MODEL_TOKEN: base_token} if base_token else {}
    return (
        plan.model_copy(update={"base": base_plan}),
        mounts
        | Mounts(
            base_model_claim=base_claim,
            project=base[1].source.project is not None,
            tokens=tokens,
        ),
    )


def _one_model(
    name: str, spec: ModelSpec, status: JsonObject, directory: str, registry_uri: str | None
) -> tuple[ModelPlan, str | None, SecretKeyRef | None]:
    source = spec.source
    revision = status.get("revision")
    common: JsonObject = {
        "name": name,
        "type": status.get("type"),
        "revision": revision,
        "trustRemoteCode": spec.trust_remote_code,
        "source": model_line(spec) if status and not source.fine_tune_job else None,
    }
    common = {key: value for key, value in common.items() if value is not None}
    if hub := source.hugging_face:
        place = HubSource(repo=hub.repo, revision=revision or hub.revision)
        return ModelPlan(hub=place, **common), None, hub.token_secret_ref
    if volume := source.volume:
        path = directory if volume.path == "." else f"{directory}/{volume.path}"
        return ModelPlan(directory=path, **common), volume.claim_name, None
    if project := source.project:
        return ModelPlan(directory=f"{PROJECT_DIRECTORY}/{project.path}", **common), None, None
    if registered := source.registry:
        if revision:
            registry_uri = f"models:/{registered.name}/{revision}"
        elif registered.version is not None:
            registry_uri = f"models:/{registered.name}/{registered.version}"
        else:
            registry_uri = f"models:/{registered.name}@{registered.alias}"
    return ModelPlan(registry_uri=registry_uri, **common), None, None


def model_line(spec: ModelSpec) -> str:
    """The source in one line, for status."""
    source = spec.source
    if hub := source.hugging_face:
        return f"hf://{hub.repo}@{hub.revision}"
    if volume := source.volume:
        return f"pvc://{volume.claim_name}/{volume.path}"
    if source.project:
        return f"project://{source.project.path}"
    if registered := source.registry:
        if registered.version is not None:
            return f"models:/{registered.name}/{registered.version}"
        return f"models:/{registered.name}@{registered.alias}"
    assert source.fine_tune_job is not None
    return f"finetunejob/{source.fine_tune_job.name}"


def unreachable(mounts: Mounts, target: ComputeTargetSpec) -> str:
    """A sentence when the target's runs can't read what must be mounted, else empty."""
    claims = (mounts.dataset_claim, mounts.model_claim, mounts.base_model_claim)
    claim = next((name for name in claims if name), None)
    if target.cml and claim:
        return (
            f"PersistentVolumeClaim {claim} can't be mounted in CML: put the files into the project"
            " and use source.project, or take them from a hub or registry"
        )
    if target.cml is None and mounts.project:
        return (
            "source.project names files of a CML project, and the compute target is not one: use"
            " source.volume, or a ComputeTarget with spec.cml"
        )
    return ""


def prompt_plan(spec: PromptTemplateSpec) -> PromptPlan:
    """The prompt for a plan."""
    return PromptPlan(prompt=spec.prompt, completion=spec.completion, messages=spec.messages)

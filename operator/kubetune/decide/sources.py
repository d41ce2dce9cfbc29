"""Sources of datasets and models as the plan names them, and what must be mounted for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubetune.api import JsonObject
from kubetune.api.kinds.compute_target.spec import ComputeTargetSpec
from kubetune.api.kinds.dataset.sources import (
    ConfigMapFile,
    CsvOptions,
    FilesSource,
    HttpFile,
    HttpSource,
    HubSource,
    HuggingFaceDataset,
    InlineRows,
    ProjectFiles,
    RowsSource,
    VolumeFiles,
)
from kubetune.api.kinds.dataset.spec import ColumnMapping, DatasetSpec, Splits
from kubetune.api.kinds.model.spec import ModelSpec
from kubetune.api.kinds.prompt_template.spec import PromptTemplateSpec
from kubetune.api.kinds.status_types import DatasetStatusDict, ModelStatusDict
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
    ModelPlan,
    PromptPlan,
)
from kubetune.api.schema.base import PlanValue, SecretKeyRef
from kubetune.targets.table import facts_of


@dataclass(frozen=True)
class Mounts:
    """What a run needs besides its plan; fields as in targets.contract.RunRequest."""

    inline_rows: list[JsonObject] | None = None
    dataset_claim: str | None = None
    dataset_config_map: tuple[str, str] | None = None
    model_claim: str | None = None
    base_model_claim: str | None = None
    project: bool = False
    """Reads files of the target's project."""
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
    name: str, spec: DatasetSpec, status: DatasetStatusDict | None = None
) -> tuple[DatasetPlan, Mounts]:
    """The dataset for a plan; with the status of a ready Dataset its digests and revision too."""
    found: DatasetStatusDict = status or {}
    source = spec.source
    common: JsonObject = {
        "name": name,
        "format": spec.format,
        "columns": spec.columns or ColumnMapping(),
        "splits": spec.splits or Splits(),
        "digest": found.get("digest"),
        "splitDigest": found.get("splitDigest"),
        # An inspection's key is made of its plan, and asks for nothing new.
        "source": source.given.line if status else None,
    }
    # An inspection only counts, so that another policy needs no other one.
    if status and spec.checks and spec.checks.hidden_parts == "Refuse":
        common["refuseHidden"] = True
    common = {key: value for key, value in common.items() if value is not None}
    reading = READ_BY[type(source.given)](source.given, found)
    return DatasetPlan(**{reading.by: reading.place}, **common), reading.mounts


@dataclass(frozen=True)
class Reading:
    """How a run reads a source of rows."""

    by: str
    """The field of ReadFrom, which is the runner's module too."""
    place: PlanValue
    mounts: Mounts = Mounts()


def _hub(source: HuggingFaceDataset, found: DatasetStatusDict) -> Reading:
    place = HubSource(
        repo=source.repo,
        revision=found.get("revision") or source.revision,
        config=source.config,
        delimiter=_delimiter(source.csv),
    )
    token = source.token
    return Reading("hub", place, Mounts(tokens={ENV_DATASET_TOKEN: token} if token else {}))


def _volume(source: VolumeFiles, _found: DatasetStatusDict) -> Reading:
    files = FilesSource(
        directory=DATASET_DIRECTORY,
        glob=source.glob,
        format=source.format,
        delimiter=_delimiter(source.csv),
    )
    return Reading("files", files, Mounts(dataset_claim=source.claim_name))


def _project(source: ProjectFiles, _found: DatasetStatusDict) -> Reading:
    files = FilesSource(
        directory=PROJECT_DIRECTORY,
        glob=source.glob,
        format=source.format,
        delimiter=_delimiter(source.csv),
    )
    return Reading("files", files, Mounts(project=True))


def _http(source: HttpFile, _found: DatasetStatusDict) -> Reading:
    place = HttpSource(url=source.url, format=source.format, delimiter=_delimiter(source.csv))
    return Reading("http", place)


def _config_map(source: ConfigMapFile, _found: DatasetStatusDict) -> Reading:
    files = FilesSource(
        directory=DATASET_DIRECTORY,
        glob=source.key,
        format=source.format,
        delimiter=_delimiter(source.csv),
    )
    return Reading("files", files, Mounts(dataset_config_map=(source.name, source.key)))


def _inline(source: InlineRows, _found: DatasetStatusDict) -> Reading:
    files = FilesSource(directory=PLAN_DIRECTORY, glob="rows.jsonl", format="jsonl")
    return Reading("files", files, Mounts(inline_rows=source.rows))


def _delimiter(csv: CsvOptions | None) -> str | None:
    return csv.delimiter if csv else None


READ_BY: Mapping[type[RowsSource], Callable[[Any, DatasetStatusDict], Reading]] = {
    HuggingFaceDataset: _hub,
    VolumeFiles: _volume,
    ProjectFiles: _project,
    HttpFile: _http,
    ConfigMapFile: _config_map,
    InlineRows: _inline,
}
"""What follows from a source, and from the status of a Dataset that was inspected."""


def model_source(
    name: str,
    spec: ModelSpec,
    status: ModelStatusDict | None = None,
    *,
    registry_uri: str | None = None,
    base: tuple[str, ModelSpec, ModelStatusDict] | None = None,
    base_registry_uri: str | None = None,
) -> tuple[ModelPlan, Mounts]:
    """The model for a plan.

    ``registry_uri`` is where the output of a FineTuneJob is kept; ``base`` is name, spec and
    status of an adapter's base model, which may not be an adapter itself, and
    ``base_registry_uri`` the like of it.
    """
    plan, claim = _one_model(name, spec, status or {}, MODEL_DIRECTORY, registry_uri)
    token = spec.source.token
    mounts = Mounts(
        model_claim=claim,
        project=spec.source.project is not None,
        tokens={ENV_MODEL_TOKEN: token} if token else {},
    )
    if base is None:
        return plan, mounts
    base_plan, base_claim = _one_model(*base, BASE_MODEL_DIRECTORY, base_registry_uri)
    base_token = base[1].source.token
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
    name: str, spec: ModelSpec, status: ModelStatusDict, directory: str, registry_uri: str | None
) -> tuple[ModelPlan, str | None]:
    source = spec.source
    revision = status.get("revision")
    common: JsonObject = {
        "name": name,
        "type": status.get("type"),
        "revision": revision,
        "trustRemoteCode": spec.trust_remote_code,
        "source": model_line(spec) if status and not source.fine_tune_job else None,
        "filesDigest": _files_digest(spec, status),
    }
    common = {key: value for key, value in common.items() if value is not None}
    if hub := source.hugging_face:
        place = HubSource(repo=hub.repo, revision=revision or hub.revision)
        return ModelPlan(hub=place, **common), None
    if volume := source.volume:
        path = directory if volume.path == "." else f"{directory}/{volume.path}"
        return ModelPlan(directory=path, **common), volume.claim_name
    if project := source.project:
        return ModelPlan(directory=f"{PROJECT_DIRECTORY}/{project.path}", **common), None
    if registered := source.registry:
        if revision:
            registry_uri = f"models:/{registered.name}/{revision}"
        elif registered.version is not None:
            registry_uri = f"models:/{registered.name}/{registered.version}"
        else:
            registry_uri = f"models:/{registered.name}@{registered.alias}"
    return ModelPlan(registry_uri=registry_uri, **common), None


def _files_digest(spec: ModelSpec, status: ModelStatusDict) -> str | None:
    """What the list of the model's files must have, by what the cluster itself knows."""
    source = spec.source
    if source.registry:
        return source.registry.files_digest
    output = status.get("jobOutput")
    same = output and source.fine_tune_job and output["name"] == source.fine_tune_job.name
    return output.get("filesDigest") if output and same else None


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
    facts = facts_of(target)
    if claim and facts.claims_refused:
        return f"PersistentVolumeClaim {claim} {facts.claims_refused}"
    return facts.project_refused if mounts.project else ""


def prompt_plan(spec: PromptTemplateSpec) -> PromptPlan:
    """The prompt for a plan."""
    return PromptPlan(prompt=spec.prompt, completion=spec.completion, messages=spec.messages)

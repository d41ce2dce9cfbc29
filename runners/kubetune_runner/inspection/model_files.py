"""The files of a model wherever it is kept, without downloading its weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from kubetune.api.bounded import DOCUMENT, file_text, json_object
from kubetune.api.run.plan import (
    FILE_LIST,
    PROJECT_DIRECTORY,
    WORK_DIRECTORY,
    ModelPlan,
    TrackingPlan,
    in_container,
)

from kubetune_runner.data.findings import quote
from kubetune_runner.errors import RunError
from kubetune_runner.inspection.safetensors import Tensors, file_chunks, parse_header
from kubetune_runner.mlflow import client as mlflow_client
from kubetune_runner.mlflow.rest import MlflowApi, is_proxied, open_api
from kubetune_runner.mlflow.tracking_api import MlflowError
from kubetune_runner.model import file_list
from kubetune_runner.model.hub import HubRepo, open_repo

TEXT_LIMIT_BYTES = 128 * 1024 * 1024
SAMPLE_BYTES = 64 * 1024
SAMPLES = 32
WHOLE_BELOW_BYTES = 16 * 1024 * 1024
UNREGISTERED = re.compile(r"^(models:/m-[^/@]+$|runs:/)")
"""Addresses of results that no registered version stands for."""


class ModelFiles(Protocol):
    """Files of one model; the names are relative to the folder of its configuration."""

    @property
    def place(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def license(self) -> str | None: ...
    @property
    def sizes(self) -> dict[str, int | None]: ...

    def text(self, name: str) -> str:
        """A small text file."""
        ...

    def tensors(self, name: str) -> Tensors:
        """The header of a safetensors file. Raises ValueError when it is broken."""
        ...


def open_model(plan: ModelPlan, tracking: TrackingPlan | None, token: str | None) -> ModelFiles:
    """Find the model's files.

    What is read of a version whose list of files is known is compared with that. Raises RunError
    ModelNotFound, RegistryNotFound, RegistryUnreachable, ModelFilesChanged, or as ``open_repo``.
    """
    if plan.hub:
        return _HubFiles(open_repo(plan.hub.repo, "model", plan.hub.revision, token))
    if plan.directory:
        return _directory(in_container(plan.directory), plan.directory)
    version = _registered(plan.registry_uri or "", tracking)
    if plan.files_digest is None:
        return version.files
    return _listed(plan.name, version, plan.files_digest)


@dataclass(frozen=True)
class _HubFiles:
    repo: HubRepo

    @property
    def place(self) -> str:
        return f"model repository {quote(self.repo.repo)}"

    @property
    def revision(self) -> str:
        return self.repo.commit

    @property
    def license(self) -> str | None:
        return self.repo.license

    @property
    def sizes(self) -> dict[str, int | None]:
        return self.repo.sizes

    def text(self, name: str) -> str:
        return file_text(self.repo.download(name))

    def tensors(self, name: str) -> Tensors:
        if self.repo.cached:
            path = self.repo.download(name)
            return parse_header(file_chunks(path), path.stat().st_size)
        return self.repo.tensors(name)


@dataclass(frozen=True)
class _FolderFiles:
    folder: Path
    place: str
    revision: str
    license: str | None
    sizes: dict[str, int | None]

    def text(self, name: str) -> str:
        return file_text(self.folder / name)

    def tensors(self, name: str) -> Tensors:
        path = self.folder / name
        return parse_header(file_chunks(path), path.stat().st_size)


def _directory(folder: Path, named: str) -> _FolderFiles:
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "doesn't exist"
        where = "in the pod; check source.volume.claimName and source.volume.path"
        if named.startswith(PROJECT_DIRECTORY):
            named = named.removeprefix(PROJECT_DIRECTORY).lstrip("/")
            where = "in the CML project; check source.project.path"
        raise RunError("ModelNotFound", f"the model's path {named} {kind} {where}")
    sizes: dict[str, int | None] = {
        path.name: path.stat().st_size
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    }
    readme = folder / "README.md"
    license = license_in(file_text(readme, errors="replace")) if readme.is_file() else None
    return _FolderFiles(folder, f"folder {named}", directory_digest(folder), license, sizes)


def directory_digest(folder: Path) -> str:
    """``sha256:<hex>`` over the names, sizes and contents of the files right in a folder.

    Files from 16 MiB are sampled: head, tail and blocks spread evenly between, 2 MiB in
    all, because reading gigabytes of weights takes minutes on a network volume. Training
    changes practically every block; a change made by hand to some bytes can be missed.
    """
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name.startswith("."):
            continue
        size = path.stat().st_size
        total.update(f"{path.name}\n{size}\n".encode())
        with path.open("rb") as stream:
            if size < WHOLE_BELOW_BYTES:
                total.update(stream.read())
                continue
            for block in range(SAMPLES):
                stream.seek((size - SAMPLE_BYTES) * block // (SAMPLES - 1))
                total.update(stream.read(SAMPLE_BYTES))
    return f"sha256:{total.hexdigest()}"


def license_in(readme: str) -> str | None:
    """The license that a model card names in its head."""
    head = re.match(r"^---\s*\n(.*?)\n---", readme, re.DOTALL)
    found = re.search(r"^license:\s*(\S.*?)\s*$", head[1], re.MULTILINE) if head else None
    return found[1].strip("'\"") if found else None


@dataclass(frozen=True)
class _RegistryFiles:
    api: MlflowApi
    root: str
    folder: str
    place: str
    revision: str
    sizes: dict[str, int | None]
    license: str | None = None

    def text(self, name: str) -> str:
        data = bytearray()
        with self.api.open_artifact(self.root, self._path(name)) as chunks:
            for chunk in chunks:
                data += chunk
                if len(data) > TEXT_LIMIT_BYTES:
                    raise ValueError(f"{name} is longer than {TEXT_LIMIT_BYTES:,} bytes")
        return data.decode()

    def tensors(self, name: str) -> Tensors:
        with self.api.open_artifact(self.root, self._path(name)) as chunks:
            return parse_header(chunks, self.sizes.get(name))

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True)
class _Version:
    """A stored model as a whole."""

    files: ModelFiles
    folder: str
    """Where these lie in it."""
    whole: ModelFiles
    """All of its files by their paths."""


@dataclass(frozen=True)
class _ListedFiles:
    """Files that are compared with their list as they are read.

    Of weights only the headers are read, which can't be: whoever loads them compares.
    """

    model: str
    files: ModelFiles
    folder: str
    listed: Mapping[str, str]

    @property
    def place(self) -> str:
        return self.files.place

    @property
    def revision(self) -> str:
        return self.files.revision

    @property
    def license(self) -> str | None:
        return self.files.license

    @property
    def sizes(self) -> dict[str, int | None]:
        return self.files.sizes

    def text(self, name: str) -> str:
        text = self.files.text(name)
        path = f"{self.folder}/{name}" if self.folder else name
        file_list.check_file(self.model, self.listed, path, file_list.digest_of(text.encode()))
        return text

    def tensors(self, name: str) -> Tensors:
        return self.files.tensors(name)


def _listed(model: str, version: _Version, expected: str) -> _ListedFiles:
    """Raises RunError ModelFilesChanged."""
    whole = version.whole
    try:
        text = whole.text(FILE_LIST) if FILE_LIST in whole.sizes else None
    except MlflowError as error:
        raise RunError(
            "RegistryUnreachable",
            f"{FILE_LIST} of {whole.place} can't be read: {error}; check the compute target's"
            " tracking",
            retryable=True,
        ) from error
    except ValueError:
        text = "something else"
    file_list.check_list(model, text, expected)
    listed: dict[str, str] = json_object(text or "", DOCUMENT)
    file_list.check_names(model, listed, whole.sizes)
    files = _ListedFiles(model, version.files, version.folder, listed)
    if files.license:
        # It was read already.
        files.text("README.md")
    return files


def _registered(uri: str, tracking: TrackingPlan | None) -> _Version:
    if UNREGISTERED.match(uri) and tracking is not None:
        return _result(uri, tracking)
    match = re.match(r"^models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>.+))$", uri)
    if not match or tracking is None:
        why = "isn't models:/name/version or models:/name@alias" if not match else "needs tracking"
        raise RunError("PlanInvalid", f"model.registryUri: {uri} {why}")
    name = match["name"]
    try:
        api = open_api(tracking.uri)
        version = api.version(name, match["version"], match["alias"])
        place = f"version {version} of registered model {quote(name)}"
        root = api.version_root(name, version) if isinstance(api, MlflowApi) else ""
        if not isinstance(api, MlflowApi) or not is_proxied(root):
            return _downloaded(name, version, tracking.uri, place)
        found: dict[str, int | None] = dict(api.list_artifacts(root))
    except MlflowError as error:
        if error.status in (400, 404):
            raise RunError(
                "RegistryNotFound",
                f"the registry has no {uri}; check source.registry",
                retryable=True,
            ) from error
        raise RunError(
            "RegistryUnreachable",
            f"{uri} can't be read: {error}; check the compute target's tracking",
            retryable=True,
        ) from error
    return _served(api, root, place, version, found)


def _result(uri: str, tracking: TrackingPlan) -> _Version:
    """The result of a run that nobody registered: a logged model, or artifacts of the run."""
    place = f"the run's result {uri}"
    revision = uri.partition(":/")[2].strip("/")
    try:
        api = open_api(tracking.uri)
        root = api.artifact_root(uri) if isinstance(api, MlflowApi) else ""
        if not isinstance(api, MlflowApi) or not is_proxied(root):
            return _fetched(uri, revision, tracking.uri, place)
        found: dict[str, int | None] = dict(api.list_artifacts(root))
    except MlflowError as error:
        raise RunError(
            "ResultUnreachable",
            f"{uri} can't be read: {error}; check the compute target's tracking",
            retryable=True,
        ) from error
    return _served(api, root, place, revision, found)


def _served(
    api: MlflowApi, root: str, place: str, revision: str, found: dict[str, int | None]
) -> _Version:
    """A model whose files the server hands out one by one."""
    folder = _model_folder(list(found))
    files = _RegistryFiles(api, root, folder, place, revision, _inside(found, folder))
    return _Version(files, folder, _RegistryFiles(api, root, "", place, revision, found))


def _model_folder(names: list[str]) -> str:
    """Where a registered version keeps the model: below ``artifacts/`` or ``model/``, mostly."""
    for configuration in ("adapter_config.json", "config.json"):
        folders = [
            PurePosixPath(name).parent.as_posix()
            for name in names
            if PurePosixPath(name).name == configuration
        ]
        if folders:
            nearest = min(folders, key=lambda folder: (folder.count("/"), folder))
            return "" if nearest == "." else nearest
    return ""


def _inside(sizes: dict[str, int | None], folder: str) -> dict[str, int | None]:
    prefix = f"{folder}/" if folder else ""
    return {
        name.removeprefix(prefix): size for name, size in sizes.items() if name.startswith(prefix)
    }


def _downloaded(name: str, version: str, uri: str, place: str) -> _Version:
    return _fetched(f"models:/{name}/{version}", version, uri, place)


def _fetched(artifacts: str, revision: str, uri: str, place: str) -> _Version:
    """Artifacts that live in a store of their own come whole, by MLflow's own client."""
    import tempfile

    from mlflow.artifacts import download_artifacts

    work = in_container(WORK_DIRECTORY)
    target = tempfile.mkdtemp(dir=work if work.is_dir() else None)
    try:
        root = Path(
            mlflow_client.retried(
                lambda: download_artifacts(
                    artifact_uri=artifacts, dst_path=target, tracking_uri=uri
                )
            )
        )
    except Exception as error:  # each artifact store raises its own
        raise RunError(
            "RegistryUnreachable",
            f"the files of {place} can't be read ({error.__class__.__name__}); check the"
            " credentials of the artifact store in the compute target's env",
            retryable=True,
        ) from error
    sizes: dict[str, int | None] = {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    within = _model_folder(list(sizes))
    folder = root / within
    files = _directory(folder, folder.as_posix())
    return _Version(
        _FolderFiles(folder, place, revision, files.license, files.sizes),
        within,
        _FolderFiles(root, place, revision, files.license, sizes),
    )

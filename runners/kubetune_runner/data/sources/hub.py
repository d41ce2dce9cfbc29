"""The files of each split of a dataset repository.

A repository says in the YAML head of its README.md which files belong to which split and
configuration; without it, file and folder names tell. Both are read by the ``datasets`` library,
from the list of files alone, so that splits are those that ``load_dataset`` has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast
from uuid import uuid4

from kubetune.api.bounded import DOCUMENT, file_text
from kubetune.api.kinds.dataset.sources import HubSource
from kubetune.api.kinds.inspection import Problem
from kubetune.api.rows import FileFormat
from kubetune.api.yaml_text import YamlError, plain_value

from kubetune_runner.data.file_kinds import PACKED
from kubetune_runner.data.findings import Findings, listing, quote
from kubetune_runner.data.items import Source, SourceFile
from kubetune_runner.data.sources import Reader
from kubetune_runner.data.splits import choose_splits, same_split
from kubetune_runner.errors import RunError
from kubetune_runner.model.hub import HubRepo, open_repo

FORMATS: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
}
_NOT_DATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}


@contextmanager
def opened(hub: HubSource, reader: Reader) -> Generator[Source]:
    """Download the files of the splits that the run uses."""
    repo = open_repo(hub.repo, "dataset", hub.revision, reader.token)
    names = split_files(repo, hub.config, reader.findings)
    # Chosen before anything is downloaded: a repository may have other, huge splits.
    choice = choose_splits(reader.splits, sorted(names))
    files = {split: [] for split in names} | {
        split: [
            SourceFile(name, repo.download(name), _format(name), hub.delimiter)
            for name in names[split]
        ]
        for split in choice.names
    }
    yield Source(files, repo.commit)


def split_files(repo: HubRepo, config: str | None, findings: Findings) -> dict[str, list[str]]:
    """Names of the data files of each split, sorted.

    Raises RunError HubNotFound or ConfigAmbiguous naming the configurations, and NoFiles.
    """
    data = [name for name in sorted(repo.sizes) if _is_data(name)]
    declared = _configs(repo)
    if declared:
        chosen = _choose_config(repo.repo, declared, config)
        folder = str(chosen.get("data_dir") or "").strip("/")
        if chosen.get("data_files") is not None:
            splits = _declared_files(chosen["data_files"], data, folder, findings)
        else:
            splits = _conventional(data, folder, findings)
    elif config and config != "default":
        splits = _conventional(data, config, findings)
        if not splits:
            folders = sorted({name.split("/")[0] for name in data if "/" in name})
            raise RunError(
                "HubNotFound",
                f"dataset repository {quote(repo.repo)} has no configuration {quote(config)}: its"
                f" README names none; its folders are {listing(folders)}",
            )
    else:
        splits = _conventional(data, "", findings)
    splits = _one_format(splits, findings)
    if not splits:
        raise RunError("NoFiles", _no_data(repo))
    return splits


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return path.suffix.lower() in FORMATS and path.name not in _NOT_DATA and not hidden


def _format(name: str) -> FileFormat:
    return FORMATS[PurePosixPath(name).suffix.lower()]


def _no_data(repo: HubRepo) -> str:
    there = [name for name in sorted(repo.sizes) if not name.startswith(".")]
    script = f"{repo.repo.split('/')[-1]}.py"
    if script in there:
        return (
            f"dataset repository {quote(repo.repo)} has no data files for this configuration, only"
            f" the loading script {quote(script)}, which is not run; use a revision such as"
            " refs/convert/parquet"
        )
    packed = [name for name in there if PurePosixPath(name).suffix.lower() in PACKED]
    if packed:
        return (
            f"dataset repository {quote(repo.repo)} has packed files only, such as"
            f" {quote(packed[0])}; unpack them ({PACKED[PurePosixPath(packed[0]).suffix.lower()]})"
            " onto a volume and use source.volume"
        )
    return (
        f"dataset repository {quote(repo.repo)} has no csv, json, jsonl or parquet files for this"
        f" configuration; it has {listing(there, 5)}"
    )


def _configs(repo: HubRepo) -> list[dict[str, Any]]:
    """The ``configs`` list in the head of README.md; [] when there is none."""
    if "README.md" not in repo.sizes:
        return []
    text = file_text(repo.download("README.md"), errors="replace")
    head = re.match(r"^---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    if not head:
        return []
    try:
        document = plain_value(head[1], DOCUMENT)
    except YamlError as error:
        raise RunError(
            "NoFiles", f"README.md of dataset repository {quote(repo.repo)} has broken YAML"
        ) from error
    configs = cast("dict[str, Any]", document).get("configs") if isinstance(document, dict) else []
    return [config for config in configs or [] if isinstance(config, dict)]


def _choose_config(repo: str, configs: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    names = [str(config.get("config_name", "default")) for config in configs]
    if wanted is not None:
        if wanted in names:
            return configs[names.index(wanted)]
        raise RunError(
            "HubNotFound",
            f"dataset repository {quote(repo)} has no configuration {quote(wanted)}; it has"
            f" {listing(names)}. Set source.huggingFace.config",
        )
    if len(configs) == 1:
        return configs[0]
    for config, name in zip(configs, names, strict=True):
        if config.get("default") is True or name == "default":
            return config
    raise RunError(
        "ConfigAmbiguous",
        f"dataset repository {quote(repo)} has the configurations {listing(names)} and no"
        " default; set source.huggingFace.config",
    )


def _declared_files(
    declared: Any, data: list[str], folder: str, findings: Findings
) -> dict[str, list[str]]:
    """``data_files`` is a pattern, patterns, split to patterns, or a list of split and path."""
    from datasets.data_files import sanitize_patterns

    try:
        patterns = sanitize_patterns(declared)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise RunError("NoFiles", f"configs in README.md name no files: {error}") from error
    splits: dict[str, list[str]] = {}
    with _listed(data, folder) as place:
        for split, wanted in patterns.items():
            for pattern in wanted:
                matched = place.files([str(pattern)])
                if not matched:
                    findings.note(
                        Problem(message=f"configs in README.md: {quote(pattern)} matches no file")
                    )
                splits.setdefault(same_split(str(split)), []).extend(matched)
    return {split: sorted(set(names)) for split, names in splits.items() if names}


def _conventional(data: list[str], folder: str, findings: Findings) -> dict[str, list[str]]:
    """Splits by the names of files and folders, where README.md says nothing."""
    from datasets.data_files import EmptyDatasetError, get_data_patterns

    with _listed(data, folder) as place:
        try:
            patterns = get_data_patterns(place.address)
        except EmptyDatasetError:
            return {}
        splits = {str(split): place.files(wanted) for split, wanted in patterns.items()}
    used = {name for names in splits.values() for name in names}
    left_out = [name for name in _below(data, folder) if name not in used]
    if left_out:
        findings.note(
            Problem(
                message=f"{listing(left_out)} belong to no split, as folders or files of other"
                " names do; name them in `configs` of README.md to read them"
            )
        )
    return splits


@dataclass(frozen=True)
class _Place:
    """A folder of empty files with a repository's names, for the patterns of ``datasets``."""

    root: str
    folder: str

    @property
    def address(self) -> str:
        return f"memory:/{self.root}/{self.folder}".rstrip("/")

    def files(self, patterns: list[str]) -> list[str]:
        """Names in the repository of the files that match, sorted."""
        from datasets.data_files import resolve_pattern

        found: set[str] = set()
        for pattern in patterns:
            with suppress(FileNotFoundError):
                found.update(resolve_pattern(pattern, self.address))
        start = f"memory://{self.root}/"
        return sorted(name.removeprefix(start) for name in found)


@contextmanager
def _listed(names: list[str], folder: str) -> Generator[_Place]:
    from fsspec.implementations.memory import MemoryFileSystem

    files = MemoryFileSystem()
    place = _Place(f"/kubetune-{uuid4().hex}", folder)
    files.makedirs(place.root)
    try:
        for name in names:
            files.pipe_file(f"{place.root}/{name}", b"")
        yield place
    finally:
        files.rm(place.root, recursive=True)


def _below(data: list[str], folder: str) -> list[str]:
    return [name for name in data if name.startswith(f"{folder}/")] if folder else data


def _one_format(splits: dict[str, list[str]], findings: Findings) -> dict[str, list[str]]:
    """Keep the most frequent format: the same rows are often stored in two."""
    suffixes = [_format(name) for names in splits.values() for name in names]
    counts = Counter(suffixes)
    if len(counts) < 2:
        return splits
    order: list[str] = list(FORMATS.values())
    kept = min(counts, key=lambda each: (-counts[each], order.index(each)))
    findings.note(
        Problem(
            message=f"the repository has files of the formats {', '.join(sorted(counts))}; only"
            f" {kept} is read. Name the files in `configs` of its README.md to read others"
        )
    )
    return {
        split: chosen
        for split, names in splits.items()
        if (chosen := [name for name in names if _format(name) == kept])
    }

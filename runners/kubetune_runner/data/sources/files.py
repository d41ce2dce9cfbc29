"""Files below a folder: a volume, a ConfigMap, inline rows or the CML project."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from kubetune.api.kinds.dataset.sources import FilesSource
from kubetune.api.run.plan import PROJECT_DIRECTORY, in_container

from kubetune_runner.data.findings import listing, quote
from kubetune_runner.data.items import Source, SourceFile
from kubetune_runner.data.sources import Reader
from kubetune_runner.data.splits import TRAIN, split_in_name
from kubetune_runner.errors import RunError


@contextmanager
def opened(source: FilesSource, _reader: Reader) -> Generator[Source]:
    """The files as they are."""
    yield _files(source)


def _files(source: FilesSource) -> Source:
    """Files that match the glob; one called train, validation or test counts as that split."""
    root = in_container(source.directory)
    in_project = source.directory.startswith(PROJECT_DIRECTORY)
    if not root.is_dir():
        where = "the CML project; check source.project" if in_project else ""
        raise RunError(
            "NoFiles",
            f"the folder {source.directory} doesn't exist in"
            f" {where or 'the pod; check the claim and its path'}",
        )
    if ".." in PurePosixPath(source.glob).parts:
        raise RunError("NoFiles", f"glob {quote(source.glob)} may not contain '..'")
    splits: dict[str, list[SourceFile]] = {}
    found: dict[str, Path] = {}
    try:
        paths = sorted(root.glob(source.glob))
    except (ValueError, NotImplementedError) as error:
        raise RunError("NoFiles", f"glob {quote(source.glob)} is not valid: {error}") from error
    inside = root.resolve()
    for path in paths:
        name = path.relative_to(root)
        # Kubernetes keeps older copies of a ConfigMap's files in folders called ..<time>.
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and path.resolve().is_relative_to(inside):
            found[name.as_posix()] = path
    if not found:
        raise RunError(
            "NoFiles", _nothing_matches(root, source.glob, "project" if in_project else "volume")
        )
    for name, path in found.items():
        split = (split_in_name(path.stem) if _is_split_name(path.stem) else None) or TRAIN
        file = SourceFile(name, path, source.format, source.delimiter)
        splits.setdefault(split, []).append(file)
    return Source(splits)


def _is_split_name(stem: str) -> bool:
    """``train``, ``test-00000-of-00002``: on volumes only names that are a split count."""
    head, *rest = stem.replace("_", "-").split("-")
    return split_in_name(head) is not None and all(part.isdigit() or part == "of" for part in rest)


def _nothing_matches(root: Path, glob: str, place: str) -> str:
    there: list[str] = []
    for folder, folders, names in os.walk(root):
        # A project's hidden folders hold whole installations and caches.
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = Path(folder).relative_to(root)
        there += [(base / name).as_posix() for name in names if not name.startswith(".")]
        if len(there) >= 1000:  # a volume can hold millions of files
            break
    if not there:
        return f"glob {quote(glob)} matches no file: the {place} is empty"
    return f"glob {quote(glob)} matches no file; there are {listing(sorted(there), 5)}"

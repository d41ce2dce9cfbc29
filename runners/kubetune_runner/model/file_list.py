"""The list of a stored model's files with their digests, which is stored with them.

It has every file: also those that MLflow adds, such as the code that answers and what is installed
for it, as whoever loads the model by MLflow runs them.

The digest of the list stands for all of the files: the run tells it with its outcome, the operator
keeps and signs it, and whoever loads the model is given it. So what has been changed in between is
seen, and named, without asking the server where it lies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.bounded import file_text, json_file
from kubetune.api.foreign import first_line
from kubetune.api.run.plan import FILE_LIST, NOT_LISTED

from kubetune_runner.errors import RunError

MAX_TOLD = 32
"""Files that a run tells one by one: its outcome is small."""


@dataclass(frozen=True)
class FileList:
    """What a folder holds."""

    digest: str
    """Of the list."""
    files: dict[str, str]
    """Digest by the path in the folder."""

    def summary(self) -> dict[str, Any]:
        """What a run tells of it."""
        told = {"files": self.files} if len(self.files) <= MAX_TOLD else {}
        return {"filesDigest": self.digest, **told}


def write(folder: Path) -> FileList:
    """Write the list into the folder whose files are all there."""
    files = _digests(folder)
    text = json.dumps(files, sort_keys=True, indent=0, ensure_ascii=False)
    (folder / FILE_LIST).write_text(text, encoding="utf-8")
    return FileList(digest_of(text.encode()), files)


def check(model: str, folder: Path, expected: str) -> None:
    """Refuse a folder that isn't as it was when the list with the expected digest was written.

    Raises RunError ModelFilesChanged.
    """
    path = folder / FILE_LIST
    check_list(model, file_text(path, errors="replace") if path.is_file() else None, expected)
    listed: dict[str, str] = json_file(path)
    found = _digests(folder)
    check_names(model, listed, found)
    for name, digest in found.items():
        check_file(model, listed, name, digest)


def check_names(model: str, listed: Mapping[str, str], names: Iterable[str]) -> None:
    """Refuse files that are missing or too many. Raises RunError ModelFilesChanged."""
    found = {*names} - NOT_LISTED
    for name in sorted(listed.keys() ^ found):
        what = "was added" if name in found else "is missing"
        raise _changed(model, f"file {first_line(name)} {what}")


def check_file(model: str, listed: Mapping[str, str], name: str, digest: str) -> None:
    """Refuse another file than the listed one. Raises RunError ModelFilesChanged."""
    if listed.get(name) != digest:
        raise _changed(model, f"file {first_line(name)} was changed")


def check_list(model: str, text: str | None, expected: str) -> None:
    """Refuse another list than that with the expected digest. Raises RunError ModelFilesChanged."""
    if text is None or digest_of(text.encode()) != expected:
        what = "is missing" if text is None else "was changed"
        raise _changed(model, f"{FILE_LIST}, the list of its files, {what}")


def _changed(model: str, what: str) -> RunError:
    return RunError(
        "ModelFilesChanged",
        f"model {model}: {what} since its training registered it, so nothing of it is loaded: find"
        " out who has written to the artifact store, restore the files, or train it again",
    )


def _digests(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in NOT_LISTED:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            found[name] = f"sha256:{digest.hexdigest()}"
    return found


def digest_of(data: bytes) -> str:
    """A digest as the list has it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

"""The list of a model's files with their digests, which is stored with them.

The digest of the list stands for all of the files: the run tells it with its outcome, the operator
keeps and signs it, and whoever loads the model is given it. So what has been changed in between is
seen, and named, without asking the server where it lies.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubetune.api.bounded import file_text, json_file
from kubetune.api.run.plan import FILE_LIST

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
    return FileList(_digest(text.encode()), files)


def check(model: str, folder: Path, expected: str) -> None:
    """Refuse a folder that isn't as it was when the list with the expected digest was written.

    Raises RunError ModelFilesChanged.
    """
    path = folder / FILE_LIST
    check_list(model, file_text(path, errors="replace") if path.is_file() else None, expected)
    listed: dict[str, Any] = json_file(path)
    found = _digests(folder)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise _changed(model, f"file {name} is missing")
        if name not in listed:
            raise _changed(model, f"file {name} was added")
        if listed[name] != found[name]:
            raise _changed(model, f"file {name} was changed")


def check_list(model: str, text: str | None, expected: str) -> None:
    """Refuse another list than that with the expected digest. Raises RunError ModelFilesChanged."""
    if text is None or _digest(text.encode()) != expected:
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
        if path.is_file() and path != folder / FILE_LIST:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
            found[path.relative_to(folder).as_posix()] = f"sha256:{digest.hexdigest()}"
    return found


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"

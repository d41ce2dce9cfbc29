"""Which checkpoint an attempt continues from.

A checkpoint counts only with a seal: a file, written last, with the size of every other file
and the lineage digest of the plan. A half-written folder has none, and a folder of another
run has the wrong digest.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from kubetune.api.bounded import json_file

SEAL = "kubetune.json"
PREFIX = "checkpoint-"

log = logging.getLogger(__name__)


def seal(checkpoint: Path, lineage_digest: str) -> None:
    """Declare a checkpoint complete, once all of it is on the disk."""
    parts = [path for path in sorted(checkpoint.iterdir()) if path.name != SEAL]
    for path in [*(p for p in checkpoint.rglob("*") if p.name != SEAL), checkpoint]:
        _sync(path)
    files = {path.name: path.stat().st_size for path in parts}
    temporary = checkpoint / f"{SEAL}.part"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump({"lineageDigest": lineage_digest, "files": files}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(checkpoint / SEAL)
    _sync(checkpoint)
    _sync(checkpoint.parent)


def newest(directory: Path, lineage_digest: str) -> Path | None:
    """The newest valid checkpoint of this run; others are deleted, since they'd count as kept."""
    found = None
    for checkpoint in numbered(directory):
        if _valid(checkpoint, lineage_digest):
            found = checkpoint
        else:
            log.warning("%s is incomplete or of another run; deleting it", checkpoint)
            shutil.rmtree(checkpoint, ignore_errors=True)
    return found


def numbered(directory: Path) -> list[Path]:
    """The checkpoints in a folder by their steps, whole or not."""
    found = (path for path in directory.glob(f"{PREFIX}*") if path.is_dir() and step_of(path) >= 0)
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which it was written; -1 when its name tells none."""
    number = checkpoint.name.removeprefix(PREFIX)
    return int(number) if number.isdigit() else -1


def sealed_at(checkpoint: Path) -> float:
    """When it became whole, seconds since the epoch."""
    return (checkpoint / SEAL).stat().st_mtime


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would outlast the machine."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _valid(checkpoint: Path, lineage_digest: str) -> bool:
    try:
        document: Any = json_file(checkpoint / SEAL)
        return document["lineageDigest"] == lineage_digest and all(
            (checkpoint / name).stat().st_size == size for name, size in document["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False

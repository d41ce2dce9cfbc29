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
    """Declare a checkpoint complete."""
    files = {p.name: p.stat().st_size for p in sorted(checkpoint.iterdir()) if p.name != SEAL}
    temporary = checkpoint / f"{SEAL}.part"
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump({"lineageDigest": lineage_digest, "files": files}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(checkpoint / SEAL)


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
    found = (path for path in directory.glob(f"{PREFIX}*") if path.is_dir() and _step(path) >= 0)
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix(PREFIX)
    return int(number) if number.isdigit() else -1


def _valid(checkpoint: Path, lineage_digest: str) -> bool:
    try:
        document: Any = json_file(checkpoint / SEAL)
        return document["lineageDigest"] == lineage_digest and all(
            (checkpoint / name).stat().st_size == size for name, size in document["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False

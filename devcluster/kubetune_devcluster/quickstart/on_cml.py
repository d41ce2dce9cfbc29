"""What differs when the quickstart trains in the simulator of a CML workspace.

CML mounts no volumes: the samples are files of the project there, and everything else stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

Object = dict[str, Any]

FOLDER = "samples"
"""Folder of the project with the samples."""
_VOLUMES = ("PersistentVolume", "PersistentVolumeClaim")
_ON_TARGET = ("Dataset", "Model", "FineTuneJob")


def on_target(objects: list[Object], target: str) -> list[Object]:
    """The objects, inspected and trained on a ClusterComputeTarget, from files of its project."""
    kept = [item for item in objects if item["kind"] not in _VOLUMES]
    for item in kept:
        if item["kind"] in _ON_TARGET:
            item["spec"]["computeTargetRef"] = {"kind": "ClusterComputeTarget", "name": target}
        source = item.get("spec", {}).get("source", {})
        if volume := source.pop("volume", None):
            source["project"] = _project_source(volume)
    return kept


def files(samples: Path) -> dict[str, Path]:
    """The samples by their paths in the project."""
    found = sorted(file for file in samples.rglob("*") if file.is_file())
    return {f"{FOLDER}/{file.relative_to(samples).as_posix()}": file for file in found}


def _project_source(volume: Object) -> Object:
    return {
        name: f"{FOLDER}/{value}" if name in ("glob", "path") else value
        for name, value in volume.items()
        if name != "claimName"
    }

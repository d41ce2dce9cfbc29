"""Writes an image of one layer that is too large for memory, as ``ctr images import`` reads it."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

from kubetune_devcluster.containers.images import ARCHITECTURES

KIND = "application/vnd.oci.image"


def write(name: str, layer: Path, config: dict[str, Any], path: Path) -> None:
    """Write an OCI image layout with a layer that is a tar file, which is moved into it."""
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    made = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    blobs: list[tuple[str, bytes]] = []

    def blob(document: object, media_type: str) -> dict[str, Any]:
        data = json.dumps(document).encode()
        sha256 = hashlib.sha256(data).hexdigest()
        blobs.append((f"blobs/sha256/{sha256}", data))
        return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(data)}

    layers = {"mediaType": f"{KIND}.layer.v1.tar", "digest": f"sha256:{digest}"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{KIND}.manifest.v1+json",
        "config": blob(made, f"{KIND}.config.v1+json"),
        "layers": [layers | {"size": layer.stat().st_size}],
    }
    described = blob(manifest, f"{KIND}.manifest.v1+json")
    described["annotations"] = {"io.containerd.image.name": name}
    index = {"schemaVersion": 2, "mediaType": f"{KIND}.index.v1+json", "manifests": [described]}
    blobs.append(("index.json", json.dumps(index).encode()))
    blobs.append(("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode()))
    with tarfile.open(path, "w") as archive:
        for at, data in blobs:
            entry = tarfile.TarInfo(at)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        archive.add(layer, f"blobs/sha256/{digest}")
    layer.unlink()

"""The two images of a node, made here: no registry is asked.

Both are small. The pause image holds one program. The runner image holds the skeleton of a root
file system; what it lacks, each of its containers gets mounted from this machine
(see ``environment``).
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """An image of one layer. Paths have no leading slash."""

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    folders: Mapping[str, int] = field(default_factory=dict[str, int])  # with their modes
    links: Mapping[str, str] = field(default_factory=dict[str, str])  # with their targets
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    programs: Mapping[str, Path] = field(default_factory=dict[str, Path])


def write(image: Image, path: Path) -> None:
    """Write the image as an archive that ``ctr images import`` reads (an OCI image layout)."""
    with tarfile.open(path, "w") as archive:

        def blob(data: bytes, media_type: str) -> dict[str, Any]:
            digest = hashlib.sha256(data).hexdigest()
            _add(archive, f"blobs/sha256/{digest}", data)
            return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

        layer = _layer(image)
        made = {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {
                "Cmd": image.command,
                "Env": [f"{name}={value}" for name, value in image.environment.items()],
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
            },
        }
        kind = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": blob(_json(made), f"{kind}.config.v1+json"),
            "layers": [blob(layer, f"{kind}.layer.v1.tar")],
        }
        described = blob(_json(manifest), f"{kind}.manifest.v1+json")
        described["annotations"] = {"io.containerd.image.name": image.name}
        index = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.index.v1+json",
            "manifests": [described],
        }
        _add(archive, "index.json", _json(index))
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))


def _layer(image: Image) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as layer:
        for name, mode in image.folders.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            layer.addfile(entry)
        for name, target in image.links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            layer.addfile(entry)
        for name, content in image.files.items():
            _add(layer, name, content)
        for name, path in image.programs.items():
            _add(layer, name, path.read_bytes(), mode=0o755)
    return data.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _json(document: object) -> bytes:
    return json.dumps(document).encode()

"""The runner as it is uploaded into a CML project: one zip of pure Python and one entry script.

So the training code always fits the operator, and a runtime needs third-party packages alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kubetune.api.run.plan import CML_FOLDER

ENTRY = "cml_entry.py"
_DIGEST_LENGTH = 12
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Runner:
    """Two files of the project, named by their content."""

    script_path: str
    script: bytes
    archive_path: str
    archive: bytes

    @property
    def archive_sha256(self) -> str:
        """Comes with each job, since others may write what is in the project."""
        return hashlib.sha256(self.archive).hexdigest()


@cache
def runner() -> Runner:
    """The runner of this installation. Raises FileNotFoundError when a package is missing."""
    content = _zip({**_sources("kubetune", ("__init__.py", "api/")), **_sources("kubetune_runner")})
    script = (_folder("kubetune_runner") / ENTRY).read_bytes()
    digest = hashlib.sha256(content + script).hexdigest()[:_DIGEST_LENGTH]
    return Runner(
        script_path=f"{CML_FOLDER}/run-{digest}.py",
        script=script,
        archive_path=f"{CML_FOLDER}/kubetune-{digest}.zip",
        archive=content,
    )


def _folder(package: str) -> Path:
    # Found, not imported: the operator needs none of the runner's packages.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _sources(package: str, wanted: tuple[str, ...] = ("",)) -> dict[str, bytes]:
    folder = _folder(package)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    return {
        f"{package}/{name}": path.read_bytes()
        for name, path in sorted(files.items())
        if name.startswith(wanted)
    }


def _zip(files: dict[str, bytes]) -> bytes:
    """A zip that is the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()

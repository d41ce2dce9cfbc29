"""Folders where libraries keep what they download and compile: in the run's scratch, unless set."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from kubetune.api.run.plan import WORK_DIRECTORY, in_container

COMPILED = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "MPLCONFIGDIR": "matplotlib",
}
"""Variables that name such folders, and the folder's own name. Their defaults are below a home
folder or have the user's name, and a container may have neither."""
DOWNLOADED = "HF_HOME"


def settle() -> None:
    """Name a folder for each library that nobody has named one for, once the scratch is there."""
    for variable in COMPILED:
        os.environ[variable] = str(folder(variable))
    if not os.environ.get(DOWNLOADED) and unwritable(folder(DOWNLOADED)):
        os.environ[DOWNLOADED] = str(_scratch() / "hugging-face")


def folder(variable: str) -> Path:
    """Where a library keeps its things."""
    given = os.environ.get(variable)
    if given:
        return Path(given)
    if variable == DOWNLOADED:
        return Path.home() / ".cache" / "huggingface"
    return _scratch() / COMPILED[variable]


def temporary() -> Path:
    """Where temporary files go."""
    return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - a run's own


def unwritable(folder: Path) -> str:
    """Why nothing can be written into a folder, which is made where it isn't there; else empty."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _scratch() -> Path:
    work = in_container(WORK_DIRECTORY)
    return work / "caches" if work.is_dir() else temporary() / f"kubetune-caches-{os.getuid()}"

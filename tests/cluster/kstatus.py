"""How GitOps tools see objects: verdicts of kstatus, from a small Go program."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.tools import go_program


def verdicts(objects: list[dict[str, Any]]) -> list[str]:
    """Current, InProgress, Failed, Terminating, NotFound or Unknown of each object."""
    lines = "".join(json.dumps(item) + "\n" for item in objects)
    result = subprocess.run(
        [go_program("kstatus")], input=lines, capture_output=True, text=True, check=True
    )
    return [json.loads(line)["status"] for line in result.stdout.splitlines()]

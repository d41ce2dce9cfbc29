"""What the Helm chart renders."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.tools import go_program

CHART = Path(__file__).parents[2] / "charts" / "kubetune"

Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of Helm, whatever its end."""
    program = go_program("helm", "helm.sh/helm/v4/cmd/helm")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def rendered(*options: str, namespace: str = "kubetune-system") -> list[Manifest]:
    """The chart's objects, released in a namespace."""
    result = helm(
        *("template", "kubetune", str(CHART), "--namespace", namespace),
        *("--include-crds", "--kube-version", "1.36.3", *options),
    )
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def by_identity(objects: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Objects by kind and name."""
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}

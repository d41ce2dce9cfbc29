"""A whole quickstart, and then every command that it has printed, as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import processes_of

pytestmark = pytest.mark.cluster

CLEAN = {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]}
"""Of a shell that has no virtual environment and knows no cluster."""


def test_all_printed_commands_run_as_they_stand(tmp_path: Path) -> None:
    home = tmp_path / "my home"
    program = [sys.executable, "-m", "kubetune.cli"]
    try:
        shown = subprocess.run(
            [*program, "quickstart", "--home", str(home)],
            env={name: text for name, text in os.environ.items() if name != "KUBECONFIG"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        _, _, next_steps = shown.stdout.partition("What to try next:\n")
        lines = [line.strip() for line in next_steps.splitlines() if line.startswith("  ")]
        commands = [line for line in lines if not line.startswith("#")]
        assert len(commands) == 7
        for command in commands:
            done = subprocess.run(
                ["bash", "-c", command], env=CLEAN, cwd="/", capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "down" in commands[-1]
        assert processes_of(home) == []
    finally:
        subprocess.run([*program, "down", "--home", str(home)], check=True)

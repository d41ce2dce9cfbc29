"""The command line of an installation without the extra `local`, such as the operator's image."""

import subprocess
import sys

import pytest

# The package is here in tests: hide it, as an import of what isn't installed would fail.
WITHOUT = """
import sys
sys.modules["kubetune_devcluster"] = None
from kubetune.cli import main
main()
"""


def kubetune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("up",),
        ("down",),
        ("status",),
        ("kubeconfig",),
        ("kubectl", "get", "pods"),
        ("quickstart",),
        ("logs", "operator"),
    ],
    ids=" ".join,
)
def test_commands_of_the_local_cluster_name_the_extra(arguments: tuple[str, ...]):
    ended = kubetune(*arguments)
    assert ended.returncode == 1
    assert "pip install 'kubetune[local]'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["operator", "validate", "compare", "logs", "up"])
def test_all_commands_explain_themselves(command: str):
    ended = kubetune(command, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith(f"Usage: -c {command} ")

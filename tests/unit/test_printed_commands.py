"""Commands that are printed for people: found, on the right cluster, and quoted."""

import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from kubetune.cli import main
from kubetune_devcluster import commands

ELSEWHERE = Path("/srv/my cluster")


def make_program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    program = folder / "kubetune"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment that this process runs in, with the program; PATH is empty."""
    make_program(tmp_path / "env" / "bin")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setenv("PATH", "")
    return tmp_path / "env" / "bin" / "kubetune"


def test_without_a_path_the_program_is_named_whole(environment: Path) -> None:
    assert commands.program() == [str(environment)]


def test_an_activated_environment_is_so_in_one_shell_only(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(environment.parent))
    assert commands.program() == [str(environment)]


def test_a_program_on_every_path_is_called_by_its_name(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "kubetune").symlink_to(environment)
    monkeypatch.setenv("PATH", str(tmp_path / "local"))
    assert commands.program() == ["kubetune"]


def test_another_program_of_the_name_is_not_ours(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_program(tmp_path / "other")
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert commands.program() == [str(environment)]


def test_without_a_script_the_module_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert commands.program() == [sys.executable, "-m", "kubetune.cli"]


def test_the_home_is_given_wherever_it_isnt_the_usual_one() -> None:
    usual = Path("~/.local/share/kubetune").expanduser()
    assert shlex.split(commands.kubetune(usual, "down"))[-1] == "down"
    assert shlex.split(commands.kubetune(ELSEWHERE, "down"))[-3:] == [
        "down",
        "--home",
        str(ELSEWHERE),
    ]
    assert shlex.split(commands.kubectl(ELSEWHERE, "get", "ftj"))[-6:] == [
        *("kubectl", "--home", str(ELSEWHERE), "--", "get", "ftj")
    ]


@pytest.mark.parametrize(
    "command",
    [["kubeconfig"], ["kubectl", "--", "get", "pods"], ["logs", "operator"]],
    ids=lambda command: command[0],
)
def test_errors_name_a_command_for_the_same_cluster(command: list[str], tmp_path: Path) -> None:
    home = tmp_path / "no cluster"
    result = CliRunner().invoke(main, [command[0], "--home", str(home), *command[1:]])
    assert result.exit_code == 1
    assert commands.kubetune(home, "up") in result.output

"""What images/runner installs, and how its Dockerfile is read in tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.image.dockerfile import parse

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(ROOT / ".tools/bin/uv")
OF_CUDA = re.compile(r"^ \+ (nvidia-|cuda-|triton=|torch=)", re.MULTILINE)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An empty environment to install into."""
    folder = tmp_path_factory.mktemp("environment") / "it"
    subprocess.run([UV, "venv", "--quiet", "--offline", folder], check=True, cwd=ROOT)
    path = f"{Path(UV).parent}:{os.environ['PATH']}"
    return os.environ | {"UV_PROJECT_ENVIRONMENT": str(folder), "UV_OFFLINE": "1", "PATH": path}


def planned(environment: dict[str, str], *arguments: str) -> str:
    """What would be installed."""
    return subprocess.run(
        [ROOT / "images/runner/install", *arguments, "--dry-run"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    ).stderr


def test_the_variant_for_cpus_has_no_cuda(environment: dict[str, str]) -> None:
    with_cuda = planned(environment, "packages", "cuda")
    assert len(OF_CUDA.findall(with_cuda)) > 15, with_cuda
    without = planned(environment, "packages", "cpu")
    assert not OF_CUDA.findall(without.split("Using Python")[0]), without
    assert " + transformers==" in without
    # torch for CPUs is from an index of its own, which isn't asked here.
    (version,) = re.findall(r"^ \+ torch==(\S+)", with_cuda, re.MULTILINE)
    assert f"torch=={version}" in without
    project = planned(environment, "project")
    assert not OF_CUDA.findall(project), project
    assert " + kubetune" in project


def test_an_unknown_variant_is_named() -> None:
    told = subprocess.run(
        [ROOT / "images/runner/install", "packages", "rocm"], capture_output=True, text=True
    )
    assert told.returncode == 2
    assert "VARIANT is 'rocm': use cuda or cpu" in told.stderr


def test_instructions_of_several_lines_are_one() -> None:
    text = """
# a comment
FROM python:3 AS build
RUN --mount=type=cache,target=/c one \\
    # between
    && two
"""
    begin, run = parse(text)
    assert (begin.name, begin.text) == ("FROM", "python:3 AS build")
    assert run.flags == {"mount": "type=cache,target=/c"}
    assert run.text.split() == ["one", "&&", "two"]


def test_the_image_is_built_by_what_is_tested_here() -> None:
    steps = parse((ROOT / "images/runner/Dockerfile").read_text())
    last = [step.text for step in steps if step.name == "RUN"][-1]
    assert last == "python -m kubetune_runner doctor"
    installed = [step.text for step in steps if "/install p" in step.text]
    assert installed == [
        'images/runner/install packages "$VARIANT"', "images/runner/install project"
    ]  # fmt: skip

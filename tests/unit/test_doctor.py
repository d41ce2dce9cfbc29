"""What a run looks for before it starts, and what ``python -m kubetune_runner doctor`` tells."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from kubetune.api.run.plan import ENV_GPUS, ENV_ROOT, WORK_DIRECTORY
from kubetune_runner.doctor import caches, compiler, gpus
from kubetune_runner.doctor.gpus import Driver, Gpus
from kubetune_runner.errors import RunError

from tests.nvidia import COMPILER, make_driver

needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no gcc here")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever the code sets is gone after the test."""
    for name in (*caches.COMPILED, caches.DOWNLOADED, ENV_GPUS, "CC", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


# --- folders


def test_folders_are_in_the_scratch_unless_somebody_has_named_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ENV_ROOT, str(tmp_path))
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    work = tmp_path / WORK_DIRECTORY.lstrip("/")
    work.mkdir(parents=True)
    caches.settle()
    assert os.environ["TRITON_CACHE_DIR"] == str(work / "caches/triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(work / "caches/inductor")
    assert os.environ["MPLCONFIGDIR"] == "/mine"


def test_a_home_folder_that_nobody_can_write_to_is_no_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    caches.settle()
    assert caches.DOWNLOADED not in os.environ
    monkeypatch.setenv("HOME", "/proc")
    caches.settle()
    assert os.environ[caches.DOWNLOADED].startswith(str(tmp_path / "tmp"))


# --- the compiler


@needs_compiler
def test_a_launcher_is_compiled_loaded_and_called(tmp_path: Path) -> None:
    compiler.attempt(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name != "tmp"]


def test_without_a_compiler_the_image_needs_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match=r"no C compiler.*add gcc, libc6-dev") as caught:
        compiler.attempt(tmp_path)
    assert (caught.value.reason, caught.value.retryable) == ("CompilerMissing", False)


def test_a_compiler_that_is_named_must_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(RunError, match=r"CC is /nowhere/cc") as caught:
        compiler.attempt(tmp_path)
    assert caught.value.reason == "CompilerMissing"


@needs_compiler
@pytest.mark.parametrize(
    ("script", "told"),
    [
        # The headers of Python, then those of the C library, and then the linker are missing.
        ('for a; do case "$a" in -I*) ;; *) set -- "$@" "$a";; esac; shift; done', r"Python\.h"),
        ('set -- "$@" -nostdinc', r"can't compile"),
        ('set -- "$@" -B/nowhere -fuse-ld=nothing', "can't compile"),
        ("exit 3", "exit code 3"),
    ],
)
def test_a_compiler_without_headers_is_told_by_what_it_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, told: str
) -> None:
    broken = tmp_path / "cc"
    broken.write_text(f'#!/bin/sh\n{script}\nexec {COMPILER} "$@"\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(RunError, match=told) as caught:
        compiler.attempt(tmp_path)
    assert caught.value.reason == "CompilerFails"


@needs_compiler
def test_a_folder_without_programs_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "cc"
    # What a mount without the right to execute leads to, too: it can't be loaded.
    broken.write_text('#!/bin/sh\nfor a; do [ "$last" = -o ] && out=$a; last=$a; done\n>"$out"\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(RunError, match="set TRITON_CACHE_DIR to a folder"):
        compiler.attempt(tmp_path)


@needs_compiler
def test_tritons_own_launcher_can_be_compiled_here(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    script = Path(__file__).parents[1] / "image/triton_launcher.py"
    made = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert made.stdout.startswith(f"OK {tmp_path}"), made.stderr
    assert list(tmp_path.rglob("cuda_utils*.so"))


# --- GPUs


@needs_compiler
@pytest.mark.parametrize(
    ("asked", "version", "devices", "status", "reason", "told"),
    [
        (0, 13020, 1, 0, None, ""),
        (1, 13020, 1, 0, None, ""),
        (1, 13000, 1, 0, None, "a driver of the same generation runs it"),
        (1, 14010, 8, 0, None, ""),
        (0, 12080, 1, 0, "DriverTooOld", r"CUDA up to 12\.8, and torch here is built for CUDA 13"),
        (2, 13020, 1, 0, "GpuMissing", r"resources\.gpu is 2, and this container sees 1"),
        (1, 13020, 0, 100, "GpuMissing", r"driver of this container sees no GPU"),
        (1, 13020, 0, 803, "GpuMissing", r"fails with CUDA's error 803"),
        (0, 13020, 0, 803, None, ""),
    ],
)
def test_what_the_driver_says_is_compared_with_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    asked: int, version: int, devices: int, status: int, reason: str | None, told: str,
) -> None:  # fmt: skip
    made = make_driver(tmp_path, version=version, devices=devices, status=status)
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(ENV_GPUS, str(asked))
    monkeypatch.setattr(gpus, "_torch", lambda: "13.2")
    found = gpus.ask()
    assert found is not None
    problem = found.problem()
    assert (problem.reason if problem else None) == reason
    if problem:
        assert re.search(told, problem.message)
        assert problem.retryable, "another node may have what this one lacks"
    assert found.used == (devices > 0)


def test_without_a_driver_only_runs_that_asked_for_a_gpu_fail() -> None:
    nothing = Driver(problem="this container has no NVIDIA driver (libcuda.so.1)")
    assert Gpus(0, "13.2", nothing).problem() is None
    problem = Gpus(1, "13.2", nothing).problem()
    assert problem
    assert problem.message.startswith("resources.gpu is 1, and this container has no NVIDIA driver")


def test_a_torch_without_cuda_uses_no_gpu() -> None:
    there = Driver(version=13020, devices=1)
    assert not Gpus(0, "", there).used
    assert Gpus(0, "", there).problem() is None
    problem = Gpus(1, "", there).problem()
    assert problem
    assert "torch here is built without CUDA" in problem.message


@pytest.mark.parametrize(
    ("lines", "built"),
    [
        ("cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n", "13.2"),
        ("cuda = '12.8'\nhip = None\n", "12.8"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", ""),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4.43482'\n", None),
    ],
)
def test_what_torch_is_built_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, built: str | None
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "version.py").write_text(lines)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    found = gpus.ask()
    assert (found.torch if found else None) == built


# --- the command


def doctor(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kubetune_runner", "doctor"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


@needs_compiler
def test_the_command_names_all_that_is_missing_at_once(tmp_path: Path) -> None:
    made = doctor(CC="/nowhere/cc", HF_HOME="/proc/cache", **{ENV_GPUS: "1"})
    missing = [line for line in made.stdout.splitlines() if line.startswith("MISSING")]
    assert [line.split()[1] for line in missing] == ["HF_HOME", "C", "GPUs"], made.stdout
    assert made.returncode == 1
    fine = doctor(MPLCONFIGDIR=str(tmp_path / "plots"))
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "MISSING" not in fine.stdout
    assert str(tmp_path / "plots") in fine.stdout

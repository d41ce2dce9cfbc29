"""What a run lacks where it runs ends it before it reads rows, and says what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from kubetune.api.run.plan import ENV_GPUS
from kubetune_runner import doctor
from kubetune_runner.errors import RunError

from tests.nvidia import COMPILER, make_driver
from tests.runners.cml_project import Project
from tests.runners.conftest import PlanFactory, Runner

NOTHING_ELSE = {"PATH": "/nowhere"}
"""A container without a compiler."""

needs_compiler = pytest.mark.skipif(not COMPILER, reason="there is no gcc here")


@needs_compiler
def test_a_gpu_without_a_compiler_ends_a_training_before_it_starts(
    make_plan: PlanFactory, start_runner: Callable[..., Runner], mlflow_server: str, tmp_path: Path
) -> None:
    driver = make_driver(tmp_path / "driver", version=13020, devices=1)
    plan = make_plan(tracking={"uri": mlflow_server})
    runner = start_runner(plan, **driver, **NOTHING_ELSE, TRITON_CACHE_DIR=str(tmp_path / "triton"))
    code, outcome = runner.wait()
    assert (outcome.reason, outcome.retryable, code) == ("CompilerMissing", False, 64), runner.log
    assert "add gcc" in outcome.message
    assert "phase training" not in runner.log


def test_a_worker_looks_for_itself(
    make_plan: PlanFactory, start_runner: Callable[..., Runner]
) -> None:
    place = {"KUBETUNE_WORKER": "1", "KUBETUNE_RENDEZVOUS": "localhost:1"}
    code, outcome = start_runner(make_plan(workers=2), **{ENV_GPUS: "1"}, **place).wait()
    assert (outcome.reason, outcome.retryable, code) == ("GpuMissing", True, 1)
    assert "resources.gpu is 1, and this container has no NVIDIA driver" in outcome.message


def test_in_cml_it_is_the_same(make_plan: PlanFactory, tmp_path: Path, mlflow_server: str) -> None:
    project = Project(tmp_path / "project")
    plan = make_plan(tracking={"uri": mlflow_server}).to_json()
    code, printed = project.run(plan, **{ENV_GPUS: "2"})
    assert code == 1
    assert "RunFailedError: GpuMissing: resources.gpu is 2" in printed
    assert project.outcome().retryable


def test_a_cache_that_nobody_can_write_to_matters_where_something_is_downloaded(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", "/proc/cache")
    local = make_plan()
    doctor.require(local)
    model = local.model.model_copy(update={"directory": None, "hub": {"repo": "a/b"}})
    downloads = local.model_copy(update={"model": model})
    with pytest.raises(RunError, match=r"HF_HOME is /proc/cache, which user \d+ can't") as caught:
        doctor.require(downloads)
    assert (caught.value.reason, caught.value.retryable) == ("CacheNotWritable", False)


@needs_compiler
def test_code_of_users_may_need_no_compiler(
    make_plan: PlanFactory,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = make_driver(tmp_path / "driver", version=13020, devices=1)
    for name, value in (driver | NOTHING_ELSE).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    script = {"name": "train.py", "text": "pass"}
    doctor.require(make_plan(training={"script": script}))
    assert "no C compiler" in caplog.text
    assert os.environ["PATH"] == "/nowhere"
    with pytest.raises(RunError, match="no C compiler"):
        doctor.require(make_plan())

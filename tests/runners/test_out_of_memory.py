"""Too little memory has one reason, whatever library finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kubetune.api.run.plan import ModelPlan
from kubetune_runner import outcomes
from kubetune_runner.errors import RunError
from kubetune_runner.model import loading
from kubetune_runner.own_code import ending
from kubetune_runner.training import out_of_memory as out_of_memory_module
from kubetune_runner.training.out_of_memory import out_of_memory

PETABYTES = 2**53


def raised(call: Any) -> BaseException:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def test_the_system_refuses_memory() -> None:
    error = raised(lambda: torch.empty(PETABYTES, dtype=torch.uint8))
    outcome = outcomes.from_error(error)
    assert (outcome.status, outcome.reason, outcome.retryable) == ("failed", "OutOfMemory", True)
    assert outcome.message.startswith("The run's memory is too small")
    assert out_of_memory(raised(lambda: bytearray(PETABYTES))) is not None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
    ],
)
def test_the_gpu_has_none_left(error: Exception) -> None:
    outcome = outcomes.from_error(error)
    assert outcome.reason == "OutOfMemory"
    assert outcome.message.startswith("The GPU's memory is too small: CUDA")
    assert "\n" not in outcome.message


def test_an_error_that_stands_for_another_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM

    def load(*_: Any, **__: Any) -> Any:
        return torch.empty(PETABYTES, dtype=torch.uint8)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    plan = ModelPlan(name="tiny", directory=str(tiny_model))
    error = raised(lambda: loading.load_model(plan, tiny_model, torch.float32))
    assert isinstance(error, RunError)
    assert outcomes.from_error(error).reason == "OutOfMemory"


def test_what_helps_is_not_covered_up() -> None:
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        except torch.OutOfMemoryError as cause:
            raise RunError("OutOfMemory", "lower generation.batchSize") from cause
    except RunError as error:
        outcome = outcomes.from_error(error)
    assert (outcome.reason, outcome.retryable) == ("OutOfMemory", True)
    assert outcome.message == "lower generation.batchSize"


COUNTERS = {
    "cgroups 2": "low 0\nhigh 7\nmax 9\noom 4\noom_kill {}\noom_group_kill 0\n",
    "cgroups 1": "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n",
}


@pytest.mark.parametrize("counter", COUNTERS.values(), ids=COUNTERS)
def test_the_system_has_killed_a_process_of_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, counter: str
) -> None:
    path = tmp_path / "memory.events"
    monkeypatch.setattr(out_of_memory_module, "KILLS", (tmp_path / "none", path))
    path.write_text(counter.format(3))
    kills = out_of_memory_module.Kills()
    monkeypatch.setattr(outcomes, "SINCE_START", kills)
    loader = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    assert outcomes.from_error(loader).reason == "UnexpectedError"
    for code in (1, -9, 75):
        with pytest.raises(RunError) as before:
            ending.check(code, [], short_of_memory=kills.some())
        assert before.value.reason in ("ScriptFailed", "ScriptKilled")
    path.write_text(counter.format(4))
    outcome = outcomes.from_error(loader)
    assert (outcome.reason, outcome.retryable) == ("OutOfMemory", True)
    assert "killed by signal" in outcome.message
    for code in (1, -9, 75):
        with pytest.raises(RunError) as after:
            ending.check(code, ["its last line"], short_of_memory=kills.some())
        assert (after.value.reason, after.value.retryable) == ("OutOfMemory", True)
        assert "its last line" in after.value.message
    ending.check(0, [], short_of_memory=True)
    # What says more than that isn't covered up.
    refused = outcomes.from_error(RunError("NoRows", "none"))
    assert (refused.reason, refused.retryable) == ("NoRows", False)


def test_nobody_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "memory.events"
    path.write_bytes(b"oom_kill \xff\n")
    monkeypatch.setattr(out_of_memory_module, "KILLS", (tmp_path / "none", path))
    assert not out_of_memory_module.Kills().some()


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("out of memory of old days"), KeyError(1)]
)
def test_other_errors_keep_their_reason(error: Exception) -> None:
    assert out_of_memory(error) is None
    assert outcomes.from_error(error).reason == "UnexpectedError"

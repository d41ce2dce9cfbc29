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


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("out of memory of old days"), KeyError(1)]
)
def test_other_errors_keep_their_reason(error: Exception) -> None:
    assert out_of_memory(error) is None
    assert outcomes.from_error(error).reason == "UnexpectedError"

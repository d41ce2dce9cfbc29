"""What only a GPU shows: 16 bits, bitsandbytes' kernels, trl's head in Triton, its memory's end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from kubetune.api.run.plan import RunPlan
from kubetune_runner import outcomes
from kubetune_runner.mlflow.upload import save
from kubetune_runner.model import heads as head
from kubetune_runner.text.encoding import IGNORED
from kubetune_runner.training.held_out import evaluate

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.evaluation_fixtures import EvaluationFactory
from tests.runners.fitting import fitted, losses
from tests.runners.test_train_methods import DORA, EIGHT, FP4, NF4, PLAIN, training
from tests.runners.test_train_objectives import plan_for

pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

FULL = {"method": "full", "hyperparameters": {"learningRate": 1e-3}}
FP16 = training(None, PLAIN) | {"hyperparameters": {"precision": "fp16"}}
METHODS: dict[str, dict[str, Any]] = {
    "lora": training(None, PLAIN),
    "lora in fp16": FP16,
    "DoRA": training(None, DORA),
    "full": FULL,
    "nf4": training(NF4, PLAIN),
    "fp4": training(FP4, PLAIN),
    "8 bits": training(EIGHT, PLAIN),
    "nf4, DoRA": training(NF4, DORA),
    "8 bits, DoRA": training(EIGHT, DORA),
    "checkpointing, accumulating": {
        "hyperparameters": {"gradientCheckpointing": True, "gradientAccumulationSteps": 2}
    },
    "AdamW in 8 bits": {"arguments": {"optim": "adamw_bnb_8bit"}},
    "packing": {"hyperparameters": {"packing": True}},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_in_16_bits_and_loads_again(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path, method: str
) -> None:
    """What is frozen has 16 bits, what trains 32; loaded again it scores alike."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    full = method == "full"
    plan = make_plan(training=METHODS[method])
    trainer, inputs = fitted(plan)
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.2, losses(trainer)
    parameters = list(trainer.model.parameters())
    assert {p.device.type for p in parameters} == {"cuda"}
    assert {p.dtype for p in parameters if p.requires_grad} == {torch.float32}
    half = torch.float16 if method == "lora in fp16" else torch.bfloat16
    frozen = {p.dtype for p in parameters if not p.requires_grad and p.dtype.is_floating_point}
    assert frozen == (set() if full else {half})
    answers = evaluate(
        trainer, inputs.tokenizer, inputs.evaluation.rows, plan.training.evaluation, 256
    ).answers
    assert len(answers) == 4

    folder = tmp_path / "result"
    trained_loss = trainer.held_out_loss()
    save(trainer.model, inputs.tokenizer, plan.model, folder, chat=False, max_new_tokens=8)
    options: dict[str, Any] = {"dtype": torch.float32 if full else half}
    if plan.training.method == "qlora":
        base = trainer.model.get_base_model()
        options["quantization_config"] = base.config.quantization_config
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder if full else tiny_model, **options)
    if not full:
        loaded = PeftModel.from_pretrained(loaded, folder)
    loaded = loaded.to("cuda").eval()
    total, tokens = 0.0, 0
    for row in inputs.evaluation.rows:
        labels = torch.tensor(row.labels[1:], device="cuda")
        with torch.no_grad(), torch.autocast("cuda", half):
            ids = torch.tensor([row.input_ids], device="cuda")
            scores = loaded(input_ids=ids).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(scores, labels, reduction="sum").item()
        tokens += int((labels != IGNORED).sum())
    assert total / tokens == pytest.approx(trained_loss, abs=0.02)


@pytest.fixture
def trl_head() -> Iterator[Any]:
    """trl's module of the head, as it was afterwards."""
    chosen = head.trl_utils._use_triton
    yield head.trl_utils
    head.trl_utils._use_triton = chosen


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.02)])
def test_the_kernel_gives_the_losses_of_the_plain_head(
    make_plan: PlanFactory, trl_head: Any, precision: str, tolerance: float
) -> None:
    """On a GPU trl's kernel in Triton scores labels, without one its loop over all of them."""
    plan = make_plan(training={"hyperparameters": {"precision": precision}})
    assert trl_head._use_triton(torch.device("cuda"))
    by_kernel, _ = fitted(plan)
    document = plan.to_json()
    document["training"]["checkpoint"]["directory"] += "-2"
    trl_head._use_triton = lambda device: False
    by_loop, _ = fitted(RunPlan.model_validate(document))
    assert losses(by_kernel) == pytest.approx(losses(by_loop), abs=tolerance)
    assert by_kernel.tokens_seen == by_loop.tokens_seen > 0


@pytest.mark.parametrize("objective", ["dpo", "kto", "reward"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_objective_learns(make_plan: PlanFactory, objective: str, method: str) -> None:
    trainer, _ = fitted(plan_for(make_plan, objective, method))
    found = losses(trainer)
    assert all(map(math.isfinite, found)), found
    assert min(found[-2:]) < found[0], found
    assert all(math.isfinite(value) for value in trainer.held_out_metrics().values())


def test_the_end_of_its_memory_is_told(make_plan: PlanFactory) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(Exception) as caught:
            fitted(make_plan(training={"hyperparameters": {"maxLength": 256}}))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    outcome = outcomes.from_error(caught.value)
    assert (outcome.reason, outcome.retryable) == ("OutOfMemory", True)
    assert outcome.message.startswith("The GPU's memory is too small: CUDA out of memory")


def test_a_run_trains_and_what_it_made_is_evaluated(
    make_plan: PlanFactory,
    make_evaluation: EvaluationFactory,
    mlflow_server: str,
    start_runner: Callable[..., Runner],
) -> None:
    """As processes of their own, from plan to outcome."""
    from mlflow.tracking import MlflowClient

    tracking = {"uri": mlflow_server}
    plan = make_plan(tracking=tracking, training=METHODS["nf4"])
    code, outcome = start_runner(plan).wait()
    assert (code, outcome.reason) == (0, "Trained"), outcome
    summary: Any = outcome.summary
    client = MlflowClient(mlflow_server)
    environment = Path(client.download_artifacts(summary["runId"], "environment.json"))
    assert torch.cuda.get_device_name() in environment.read_text()

    base = plan.model.to_json()
    tuned = {
        "name": "tuned",
        "type": "adapter",
        "directory": None,
        "registryUri": f"models:/{summary['modelId']}",
        "base": base,
    }
    wanted = make_evaluation(model=tuned, tracking=tracking, metrics=["loss", "exactMatch"])
    code, outcome = start_runner(wanted).wait()
    assert (code, outcome.reason) == (0, "Evaluated"), outcome
    measured: Any = outcome.summary
    # Trained on a base in 4 bits, evaluated on one in 16.
    assert measured["metrics"]["loss"]["value"] == pytest.approx(
        summary["metrics"]["eval_loss"], abs=0.3
    )

"""Adapters on quantized weights, with magnitudes, with whole modules: real trainings on a CPU."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.plan import RunPlan
from kubetune.api.run.training_plan import LoraPlan
from kubetune_runner.answering.generation import generate
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import save
from kubetune_runner.model import adapters
from kubetune_runner.model.quantization import compute_plainly
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import fit, make_trainer
from kubetune_runner.training.held_out import evaluate
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.fitting import fitted, losses

pytestmark = pytest.mark.training

NF4 = {"bits": 4, "type": "nf4", "doubleQuantization": True}
FP4 = {"bits": 4, "type": "fp4", "doubleQuantization": False, "computeDtype": "bf16"}
EIGHT = {"bits": 8}
PLAIN: dict[str, Any] = {}
DORA = {"useDora": True}
EMBEDDING = {"modulesToSave": ["embed_tokens"]}

METHODS: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "nf4": (NF4, PLAIN),
    "fp4": (FP4, PLAIN),
    "8 bits": (EIGHT, PLAIN),
    "nf4, DoRA": (NF4, DORA),
    "nf4, embedding": (NF4, EMBEDDING),
    "DoRA": (None, DORA),
    "embedding": (None, EMBEDDING),
    "one of all linear": (None, {"modulesToSave": ["down_proj"]}),
    "output layer": (None, {"modulesToSave": ["lm_head"]}),
    "family default": (None, {"targetModules": ["family-default"], "dropout": 0.1, "bias": "all"}),
}


def training(quantization: dict[str, Any] | None, lora: dict[str, Any]) -> dict[str, Any]:
    if quantization is None:
        return {"lora": lora}
    return {"method": "qlora", "quantization": quantization, "lora": lora}


def logits(model: Any, inputs: Any) -> Any:
    import torch

    model.eval()
    with torch.no_grad():
        ids = torch.tensor([inputs.evaluation.rows[0].input_ids])
        return model(input_ids=ids).logits.float()


def moved(model: Any, name: str) -> float:
    """How far the trained weights of a kept module are from those it had."""
    from peft.utils import ModulesToSaveWrapper

    (kept, *_) = [
        module
        for path, module in model.named_modules()
        if path.endswith(f".{name}") and isinstance(module, ModulesToSaveWrapper)
    ]
    trained: Any = kept.modules_to_save["default"]
    return (trained.weight - kept.original_module.weight).abs().max().item()


def plain_loss(model: Any, inputs: Any) -> float:
    """Held-out loss from the logits of one row at a time."""
    import torch

    total, tokens = 0.0, 0
    model.eval()
    for row in inputs.evaluation.rows:
        labels = torch.tensor(row.labels[1:])
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(scores, labels, reduction="sum").item()
        tokens += int((labels != -100).sum())
    return total / tokens


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_trains_and_loads_again(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path, method: str
) -> None:
    """On the same weights it gives the same logits; without quantization nearly the same."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    quantization, lora = METHODS[method]
    plan = make_plan(training=training(quantization, lora))
    trainer, inputs = fitted(plan)
    seen = losses(trainer)
    assert seen[-1] < seen[0] - 0.2, seen
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    base = trainer.model.get_base_model()
    # The tiny model's input and output layer are one.
    assert base.get_input_embeddings().weight is base.get_output_embeddings().weight
    assert bool(getattr(base, "is_quantized", False)) == (quantization is not None)

    for name in lora.get("modulesToSave", ()):
        assert moved(trainer.model, name) > 0, name
    # trl reads the output layer's weights past its forward.
    assert trainer.held_out_loss() == pytest.approx(plain_loss(trainer.model, inputs), abs=1e-4)

    folder = tmp_path / "adapter"
    expected = logits(trainer.model, inputs)
    save(trainer.model, inputs.tokenizer, plan.model, folder, chat=False, max_new_tokens=8)
    assert json.loads((folder / "kubetune.json").read_text())["dtype"] == "float32"

    def reloaded(**options: Any) -> Any:
        base: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, **options)
        compute_plainly(base)
        untrained = logits(base, inputs)
        return logits(PeftModel.from_pretrained(base, folder), inputs), untrained

    same = {"quantization_config": base.config.quantization_config} if quantization else {}
    found, untrained = reloaded(**same)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (untrained - expected).abs().max() > 0.1
    if quantization:
        plain, untrained = reloaded()
        # What quantization moved is small beside what training did.
        assert (plain - expected).norm() < 0.3 * (untrained - expected).norm()


@pytest.mark.parametrize(
    "method", ["nf4", "8 bits", "nf4, DoRA", "nf4, embedding", "DoRA", "embedding"]
)
def test_computing_in_bf16_keeps_what_trains_in_fp32(make_plan: PlanFactory, method: str) -> None:
    """As on a GPU: frozen weights in bf16, unless some of them train, and answers generated."""
    import torch

    quantization, lora = METHODS[method]
    over = training(quantization, lora) | {"hyperparameters": {"precision": "bf16"}}
    plan = make_plan(training=over)
    trainer, inputs = fitted(plan)
    seen = losses(trainer)
    assert seen[-1] < seen[0] - 0.2, seen
    parameters = list(trainer.model.parameters())
    assert {p.dtype for p in parameters if p.requires_grad} == {torch.float32}
    frozen = {p.dtype for p in parameters if not p.requires_grad and p.dtype.is_floating_point}
    assert frozen == {torch.float32 if lora is EMBEDDING else torch.bfloat16}
    found = evaluate(
        trainer, inputs.tokenizer, inputs.evaluation.rows, plan.training.evaluation, 256
    )
    assert len(found.answers) == 4


def test_in_16_bits_adapters_read_what_their_layers_read(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft's own cast to fp32 costs memory, and changes no loss by being left out."""
    import torch

    def trained(folder: str) -> tuple[list[float], set[Any]]:
        over = {"hyperparameters": {"precision": "bf16"}, "checkpoint": {"directory": folder}}
        plan = make_plan(training=over)
        inputs = prepare(plan)
        trainer, progress = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
        model: Any = trainer.model
        read: set[Any] = set()
        for name, module in model.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_pre_hook(lambda _, given: read.add(given[0].dtype))
        fit(plan, StopSignal(), trainer, progress)
        return losses(trainer), read

    folder = make_plan().training.checkpoint.directory
    ours, read = trained(folder)
    assert read == {torch.bfloat16}
    monkeypatch.setattr(
        "kubetune_runner.training.trainer.disable_input_dtype_casting",
        lambda model, active: contextlib.nullcontext(),
    )
    with_casts, read = trained(f"{folder}-2")
    assert read == {torch.float32}
    assert ours == with_casts


def test_checkpointing_and_another_attempt_change_no_loss(make_plan: PlanFactory) -> None:
    """Activations that are computed again, and a checkpoint that is taken over."""
    plan = make_plan(training=training(NF4, PLAIN))
    trainer, _ = fitted(plan)
    again, _ = fitted(plan)
    assert again.state.global_step == 8
    assert again.held_out_loss() == pytest.approx(trainer.held_out_loss(), abs=1e-5)
    document = plan.to_json()
    document["training"]["checkpoint"]["directory"] += "-2"
    document["training"]["hyperparameters"]["gradientCheckpointing"] = True
    other, _ = fitted(RunPlan.model_validate(document))
    assert losses(other) == pytest.approx(losses(trainer), abs=1e-5)


def test_a_run_on_quantized_weights_is_served_without_quantization(
    make_plan: PlanFactory,
    mlflow_server: str,
    tiny_model: Path,
    tmp_path: Path,
    start_runner: Callable[..., Runner],
) -> None:
    """What MLflow keeps loads with peft and with pyfunc, on the base as it is."""
    import mlflow
    from mlflow.artifacts import download_artifacts
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    over = training(NF4, DORA) | {"evaluation": {"baseline": True}}
    plan = make_plan(tracking={"uri": mlflow_server}, training=over)
    code, outcome = start_runner(plan).wait()
    assert (code, outcome.reason) == (0, "Trained"), outcome
    summary: Any = outcome.summary
    assert summary["metrics"]["eval_loss"] < summary["metrics"]["baseline_eval_loss"]
    mlflow.set_tracking_uri(mlflow_server)
    client: Any = mlflow.MlflowClient(mlflow_server)
    parameters = client.get_run(summary["runId"]).data.params
    assert parameters["kubetune.quantization.type"] == "nf4"
    environment = client.download_artifacts(summary["runId"], "environment.json")
    assert "bitsandbytes" in json.loads(Path(environment).read_text())["packages"]

    uri = f"models:/{summary['modelId']}"
    stored = Path(download_artifacts(artifact_uri=uri)) / "artifacts" / "adapter"
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    model: Any = PeftModel.from_pretrained(base, stored).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(stored)
    prompts = [row["prompt"] for row in tickets(4, held_out=True)]
    ids = generate(model, tokenizer, tokenizer(prompts)["input_ids"], batch=8, max_new_tokens=8)
    served = list(mlflow.pyfunc.load_model(uri).predict(prompts))
    assert served == tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_without_bitsandbytes_the_run_says_what_is_missing(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    plan = make_plan(training=training(NF4, PLAIN))
    with pytest.raises(RunError) as caught:
        prepare(plan)
    assert (caught.value.reason, caught.value.retryable) == ("BitsandbytesMissing", False)
    assert "kubetune[runner]" in caught.value.message


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_model_that_is_quantized_is_refused(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path, method: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tmp_path / "quantized"
    shutil.copytree(tiny_model, folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_model,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(load_in_4bit=True),
    )
    model.save_pretrained(folder)
    over = training(NF4, PLAIN) if method == "qlora" else {}
    with pytest.raises(RunError) as caught:
        prepare(make_plan(model={"directory": str(folder)}, training=over))
    assert (caught.value.reason, caught.value.retryable) == ("ModelQuantized", False)
    assert "bitsandbytes" in caught.value.message


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a module to save that isn't there": (
        training(None, {"modulesToSave": ["embed_tokens", "wte"]}),
        "ModulesToSaveUnknown",
        "no wte; it has down_proj, embed_tokens",
    ),
    "a module named twice": (
        training(None, {"modulesToSave": ["q_proj"], "targetModules": ["q_proj", "v_proj"]}),
        "ModulesNamedTwice",
        "q_proj",
    ),
    "a target without weights of its own": (
        training(NF4, {"targetModules": ["self_attn"]}),
        "TargetModulesUnknown",
        "q_proj",
    ),
    "DoRA in 8 bits without a GPU": (training(EIGHT, DORA), "DoraUnsupported", "bits to 4"),
    "fp16 without a GPU": (
        training(NF4 | {"computeDtype": "fp16"}, PLAIN),
        "PrecisionUnsupported",
        "computeDtype",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_method_is_refused(make_plan: PlanFactory, case: str) -> None:
    over, reason, words = REFUSALS[case]
    plan = make_plan(training=over)
    inputs = prepare(plan)
    with pytest.raises(RunError) as caught:
        make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    assert (caught.value.reason, caught.value.retryable) == (reason, False)
    assert words in caught.value.message


def test_models_with_other_linear_modules_name_them() -> None:
    """GPT-2's are Conv1D; peft's default for its family is one of them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model: Any = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))
    plan = LoraPlan(
        rank=4,
        alpha=8,
        dropout=0.0,
        target_modules=["family-default"],
        bias="none",
        use_rslora=False,
    )
    assert adapters.lora_config(model, plan).target_modules == {"c_attn"}
    with pytest.raises(RunError) as caught:
        adapters.lora_config(model, plan.model_copy(update={"target_modules": ["q_proj"]}))
    assert "c_attn, c_fc, c_proj, wpe, wte" in caught.value.message
    model.config.model_type = "of-tomorrow"
    with pytest.raises(RunError) as caught:
        adapters.lora_config(model, plan)
    assert "of-tomorrow" in caught.value.message


def test_a_plan_without_quantization_is_refused(make_plan: PlanFactory) -> None:
    with pytest.raises(RunError) as caught:
        prepare(make_plan(training={"method": "qlora"}))
    assert caught.value.reason == "PlanInvalid"


def test_a_model_that_is_walked_over_once_changes_its_mode_as_a_whole(tiny_model: Path) -> None:
    from kubetune_runner.model.parameter_lists import ParameterListCache
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, config)
    # What peft leaves: the whole trains, and the base in it doesn't.
    base.eval()
    assert {module.training for module in model.modules()} == {True, False}
    weights = [id(weight) for weight in model.parameters()]
    walk = ParameterListCache()
    walk.on_train_begin(model=model)
    for training in (True, False, True):
        assert model.train(training) is model
        assert {module.training for module in model.modules()} == {training}
    assert model.eval() is model
    assert {module.training for module in model.modules()} == {False}
    assert [id(weight) for weight in model.parameters()] == weights
    assert list(model.parameters(recurse=False)) == []
    walk.on_train_end(model=model)
    assert not {"train", "parameters"} & vars(model).keys()

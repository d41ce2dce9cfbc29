"""Trainings that start from an adapter, and adapters that are merged: real ones, in a row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.plan import TAG_MERGED_MODEL_ID, RunPlan
from kubetune.api.training.settings import merge as laid
from kubetune_runner.answering.generation import generate
from kubetune_runner.errors import RunError
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import save
from kubetune_runner.results import save_results
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.training.fitting import fit, make_trainer
from kubetune_runner.training.inputs import prepare

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.fitting import fitted
from tests.runners.test_train_methods import plain_loss
from tests.runners.test_train_objectives import answer_likelihood, measured, pairs, plan_for

NF4: dict[str, Any] = {
    "method": "qlora",
    "quantization": {"bits": 4, "type": "nf4", "doubleQuantization": True},
}
PLAIN: dict[str, Any] = {}
STARTS: dict[str, dict[str, Any]] = {
    "lora": PLAIN,
    "qlora": NF4,
    "DoRA": {"lora": {"useDora": True}},
    "embedding": {"lora": {"modulesToSave": ["embed_tokens"]}},
}


def begun(plan: RunPlan) -> tuple[Any, Any, Any]:
    """Trainer, its progress and inputs, before the first step."""
    inputs = prepare(plan)
    trainer, progress = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    return trainer, progress, inputs


def continued(plan: RunPlan, adapter: Path, how: str | None, **training: Any) -> RunPlan:
    """The plan of a second job, whose model is the first one's adapter."""
    document = plan.to_json()
    base = document["model"]
    document["model"] = {
        "name": "first",
        "type": "adapter",
        "directory": str(adapter),
        "base": base,
    }
    # The operator takes the modules from the adapter's inspection, where it knows them.
    over: dict[str, Any] = {"continueFrom": how} if how else {}
    if how == "adapter":
        over["lora"] = {"targetModules": []}
    document["training"] = laid(laid(document["training"], over), training)
    document["training"]["checkpoint"]["directory"] += "-2"
    document["lineageDigest"] = "sha256:1"
    return RunPlan.model_validate(document)


def first(make_plan: PlanFactory, folder: Path, training: dict[str, Any]) -> tuple[RunPlan, float]:
    """A first training; its adapter goes into the folder. Plan and held-out loss at the end."""
    plan = make_plan(training=training)
    trainer, inputs = fitted(plan)
    save(trainer.model, inputs.tokenizer, plan.model, folder, chat=False, max_new_tokens=8)
    return plan, trainer.held_out_loss()


@pytest.mark.training
@pytest.mark.parametrize("case", STARTS)
def test_an_adapter_goes_on_where_it_ended(
    make_plan: PlanFactory, tmp_path: Path, case: str
) -> None:
    adapter = tmp_path / "adapter"
    plan, ended = first(make_plan, adapter, STARTS[case])
    untrained = begun(plan.model_copy(update={"lineage_digest": "sha256:2"}))[0].held_out_loss()
    assert ended < untrained - 0.3
    trainer, progress, inputs = begun(continued(plan, adapter, "adapter"))
    assert trainer.held_out_loss() == pytest.approx(ended, abs=1e-5)
    second = continued(plan, adapter, "adapter")
    fit(second, StopSignal(), trainer, progress)
    seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert seen[0] < untrained - 0.3
    assert trainer.held_out_loss() < ended
    saved = save_results(second, inputs.start, trainer.model, inputs.tokenizer, chat=False)
    config = json.loads((saved.result / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == plan.model.directory
    assert config["r"] == 4
    # Another attempt takes its checkpoint over.
    again, progress, _ = begun(second)
    fit(second, StopSignal(), again, progress)
    assert again.held_out_loss() == pytest.approx(trainer.held_out_loss(), abs=1e-5)


@pytest.mark.training
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_merged_adapter_is_trained_on_and_the_result_is_whole(
    make_plan: PlanFactory, tmp_path: Path, method: str
) -> None:
    from transformers import AutoModelForCausalLM

    adapter = tmp_path / "adapter"
    plan, ended = first(make_plan, adapter, PLAIN)
    over = {**(NF4 if method == "qlora" else {"method": method}), "lora": {"rank": 2, "alpha": 4}}
    second = continued(plan, adapter, "merged", **over)
    trainer, progress, inputs = begun(second)
    # 4 bits move the start a little.
    assert trainer.held_out_loss() == pytest.approx(ended, abs=0.2 if method == "qlora" else 1e-4)
    fit(second, StopSignal(), trainer, progress)
    expected = trainer.held_out_loss()
    assert expected < ended - 0.05
    saved = save_results(second, inputs.start, trainer.model, inputs.tokenizer, chat=False)
    assert saved.merged is None
    assert not (saved.result / "adapter_config.json").exists()
    made = inputs.start.folder
    inputs.start.discard()
    assert not made.exists()
    assert Path(plan.model.directory or "").exists()
    whole: Any = AutoModelForCausalLM.from_pretrained(saved.result)
    tolerance = 0.2 if method == "qlora" else 1e-4
    assert plain_loss(whole, inputs) == pytest.approx(expected, abs=tolerance)


@pytest.mark.training
def test_preferences_are_learned_on_top_of_a_supervised_adapter(
    make_plan: PlanFactory, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = tmp_path / "adapter"
    supervised, _ = first(make_plan, adapter, PLAIN)
    second = continued(plan_for(make_plan, "dpo"), adapter, "merged")
    trainer, progress, inputs = begun(second)
    # Nothing is preferred at first: the model compares with itself, the merged one.
    assert measured(second, trainer, inputs)["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
    fit(second, StopSignal(), trainer, progress)
    after = measured(second, trainer, inputs)
    assert after["eval_rewards/accuracies"] == 1
    saved = save_results(second, inputs.start, trainer.model, inputs.tokenizer, chat=False)
    base: Any = AutoModelForCausalLM.from_pretrained(supervised.model.directory or "")
    before: Any = PeftModel.from_pretrained(base, adapter)
    whole: Any = AutoModelForCausalLM.from_pretrained(saved.result)
    rewards = []
    for pair in pairs(5, held_out=True):
        prompt = inputs.tokenizer(pair["prompt"], add_special_tokens=False).input_ids
        chosen, rejected = (
            inputs.tokenizer(pair[side], add_special_tokens=False).input_ids
            for side in ("chosen", "rejected")
        )
        gained = [
            answer_likelihood(whole, prompt, answer) - answer_likelihood(before, prompt, answer)
            for answer in (chosen, rejected)
        ]
        rewards.append(gained[0] - gained[1])
    assert min(rewards) > 0


@pytest.mark.training
@pytest.mark.parametrize("case", STARTS)
def test_a_merged_model_generates_what_adapter_and_base_do(
    make_plan: PlanFactory, tiny_model: Path, case: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plan = make_plan(training=STARTS[case]).model_copy(update={"merge": True})
    trainer, inputs = fitted(plan)
    saved = save_results(plan, inputs.start, trainer.model, inputs.tokenizer, chat=False)
    assert saved.merged is not None
    assert json.loads((saved.merged / "kubetune.json").read_text())["dtype"] == "float32"
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompts = [row.prompt_ids for row in inputs.evaluation.rows]
    options: dict[str, Any] = {"batch": 8, "max_new_tokens": 12}
    untrained = generate(base, inputs.tokenizer, prompts, **options)
    adapted: Any = PeftModel.from_pretrained(base, saved.result)
    expected = generate(adapted.eval(), inputs.tokenizer, prompts, **options)
    assert expected != untrained
    merged: Any = AutoModelForCausalLM.from_pretrained(saved.merged)
    assert generate(merged.eval(), inputs.tokenizer, prompts, **options) == expected


@pytest.mark.training
def test_a_run_uploads_adapter_and_merged_model(
    make_plan: PlanFactory, mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    import mlflow
    from mlflow.tracking import MlflowClient

    plan = make_plan(tracking={"uri": mlflow_server}, merge=True)
    code, outcome = start_runner(plan).wait()
    assert (code, outcome.reason) == (0, "Trained"), outcome
    summary: Any = outcome.summary
    client = MlflowClient(mlflow_server)
    run = client.get_run(summary["runId"])
    assert run.data.tags[TAG_MERGED_MODEL_ID] == summary["merged"]["modelId"]
    assert summary["modelId"] != summary["merged"]["modelId"]
    mlflow.set_tracking_uri(mlflow_server)
    prompts = [row["prompt"] for row in tickets(4, held_out=True)]
    answers = [
        list(mlflow.pyfunc.load_model(f"models:/{model}").predict(prompts))
        for model in (summary["modelId"], summary["merged"]["modelId"])
    ]
    assert answers[0] == answers[1]
    assert any(answers[0])


REFUSALS: dict[str, tuple[str | None, dict[str, Any], dict[str, Any], str]] = {
    "without continueFrom": (None, {}, {}, "AdapterAsBase"),
    "another rank": ("adapter", {"lora": {"rank": 8}}, {}, "AdapterMismatch"),
    "another kind of adapter": ("merged", {}, {"peft_type": "IA3"}, "AdapterUnsupported"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_adapter_is_refused(make_plan: PlanFactory, tmp_path: Path, case: str) -> None:
    how, training, config, reason = REFUSALS[case]
    known = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(known | config))
    (tmp_path / "adapter_model.safetensors").touch()
    plan = continued(make_plan(), tmp_path, how, **training)
    with pytest.raises(RunError) as caught:
        prepare(plan)
    assert (caught.value.reason, caught.value.retryable) == (reason, False)

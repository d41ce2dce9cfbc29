"""Runs from plan to outcome against a real MLflow server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune.api.run.plan import RunPlan
from kubetune.api.training.chat_templates import CHAT_TEMPLATES
from kubetune_runner.answering.folder import ENV_BASE_MODEL
from kubetune_runner.answering.generation import generate
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import save, upload
from kubetune_runner.sample.tickets import tickets

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.fitting import fitted, losses

pytestmark = pytest.mark.training


def client_of(server: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(server)


def test_a_run_reports_evaluates_and_uploads(
    make_plan: PlanFactory, mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    rows = [*tickets(64), {"prompt": "p", "completion": ""}]
    plan = make_plan(
        rows=rows,
        tracking={"uri": mlflow_server},
        tags={"team": "support"},
        training={
            "evaluation": {"baseline": True},
            "hyperparameters": {"evaluationSteps": 4, "loggingSteps": 2},
        },
    )
    code, outcome = start_runner(plan).wait()
    assert (code, outcome.reason) == (0, "Trained"), outcome
    summary: Any = outcome.summary
    assert summary["rows"]["train"] == {
        "used": 64,
        "empty": 1,
        "unusable": 0,
        "cut": 0,
        "cutAway": 0,
        "dropped": 0,
        "hidden": 0,
    }
    assert summary["steps"] == 8
    metrics = summary["metrics"]
    assert set(metrics) == {
        f"{prefix}{name}"
        for prefix in ("", "baseline_")
        for name in ("eval_loss", "perplexity", "exact_match", "token_f1")
    } | {"train_loss"}
    assert metrics["eval_loss"] < metrics["baseline_eval_loss"]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))

    client = client_of(mlflow_server)
    run = client.get_run(summary["runId"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "ns/job"
    for tag, value in {
        names.TAG_RUN_KEY: plan.run.run_key,
        names.TAG_PHASE: "succeeded",
        names.TAG_TOTAL_STEPS: "8",
        names.TAG_ATTEMPT: "1",
        names.TAG_MODEL_ID: summary["modelId"],
        names.TAG_LINEAGE: "sha256:0",
        "team": "support",
    }.items():
        assert run.data.tags[tag] == value
    assert run.data.params["kubetune.hyperparameters.learningRate"] == "0.01"
    assert run.data.params["kubetune.lora.rank"] == "4"
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [1, 2, 4, 6, 8]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "eval_loss")][:2] == [4, 8]
    assert run.data.metrics[names.METRIC_STEP] == 8
    assert run.inputs.dataset_inputs[0].dataset.name == "tickets"
    folder = Path(client.download_artifacts(run.info.run_id, "environment.json"))
    packages = json.loads(folder.read_text())["packages"]
    assert "torch" in packages
    assert "bitsandbytes" not in packages, "it costs time and isn't used"
    folder = Path(client.download_artifacts(run.info.run_id, "samples.json"))
    samples = json.loads(folder.read_text())
    assert len(samples) == 4
    assert set(samples[0]) == {"prompt", "reference", "base", "tuned"}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_registered_version_generates_what_the_trained_model_did(
    make_plan: PlanFactory,
    mlflow_server: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """The adapter alone, peft and pyfunc give the same tokens; some obvious flows don't."""
    import mlflow
    from mlflow.artifacts import download_artifacts
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plan = make_plan(tracking={"uri": mlflow_server}, training={"method": method})
    if method == "full":
        document = plan.to_json()
        del document["training"]["lora"]
        plan = RunPlan.model_validate(document)
    tracker = Tracker(plan)
    tracker.start()
    trainer, inputs = fitted(plan, tracker)
    trainer.model.eval()
    rows = inputs.evaluation.rows
    prompts = [row.prompt_ids for row in rows]
    options: dict[str, Any] = {"batch": 8, "max_new_tokens": 12}
    expected = generate(trainer.model, inputs.tokenizer, prompts, **options)
    untrained: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert generate(untrained, inputs.tokenizer, prompts, **options) != expected

    folder = tmp_path / "result" / ("adapter" if method == "lora" else "model")
    save(trainer.model, inputs.tokenizer, plan.model, folder, chat=False, max_new_tokens=12)
    model_id = upload(tracker, folder, {})["modelId"]
    assert tracker.close("FINISHED", 30)

    client = client_of(mlflow_server)
    name = f"ns-job-{method}"
    client.create_registered_model(name)
    version = client.create_model_version(
        name, f"models:/{model_id}", tracker.run_id, model_id=model_id
    )
    uri = f"models:/{name}/{version.version}"
    downloaded = Path(download_artifacts(artifact_uri=uri))
    stored = downloaded / "artifacts" / folder.name
    tokenizer = AutoTokenizer.from_pretrained(stored)
    if method == "lora":
        from peft import PeftModel

        base: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
        reloaded: Any = PeftModel.from_pretrained(base, stored)
    else:
        reloaded = AutoModelForCausalLM.from_pretrained(stored)
    reloaded.eval()
    assert generate(reloaded, tokenizer, prompts, **options) == expected

    texts = tokenizer.batch_decode(expected, skip_special_tokens=True)
    served = mlflow.pyfunc.load_model(uri)
    assert list(served.predict([row.prompt for row in rows])) == texts
    if method == "lora":
        import pandas

        moved = tmp_path / "moved"
        tiny_model.rename(moved)
        try:
            monkeypatch.setenv(ENV_BASE_MODEL, str(moved))
            table = pandas.DataFrame({"prompt": [row.prompt for row in rows]})
            assert list(mlflow.pyfunc.load_model(uri).predict(table)) == texts
        finally:
            moved.rename(tiny_model)


ONE = tickets(1)


@pytest.mark.parametrize(
    "over",
    [
        {"rows": ONE, "held_out": []},
        {"rows": [{"text": "some text"}] * 3, "held_out": [], "dataset": {"format": "text"}},
        {
            "rows": [
                {
                    "messages": [
                        {"role": "user", "content": "Hello?"},
                        {"role": "assistant", "content": "Yes."},
                    ]
                }
            ]
            * 3,
            "held_out": [],
            "dataset": {"format": "messages"},
        },
        {
            "rows": [
                {
                    "messages": [
                        {"role": "user", "content": "Rain?"},
                        {
                            "role": "assistant",
                            "tool_calls": [
                                {"function": {"name": "weather", "arguments": '{"at": "Bern"}'}}
                            ],
                        },
                        {"role": "tool", "content": "dry"},
                        {"role": "assistant", "content": "No."},
                    ],
                    "tools": '[{"type": "function", "function": {"name": "weather"}}]',
                }
            ]
            * 3,
            "held_out": [],
            "dataset": {"format": "messages"},
            "training": {
                "tokenizer": {"chatTemplate": CHAT_TEMPLATES["plain"]},
                "hyperparameters": {"maxLength": 256},
            },
        },
        {"training": {"hyperparameters": {"packing": True}}},
    ],
    ids=["one row", "text", "chat", "chat with tools", "packing"],
)
def test_unusual_data_trains(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch, over: dict[str, Any]
) -> None:
    plan = make_plan(**over)
    trainer, _ = fitted(plan)
    assert trainer.state.global_step == 8
    seen = losses(trainer)
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_finished_checkpoint_is_taken_over_without_another_step(
    make_plan: PlanFactory, method: str
) -> None:
    plan = make_plan(training={"method": method})
    trainer, _ = fitted(plan)
    again, _ = fitted(plan)
    assert again.state.global_step == 8
    assert again.held_out_loss() == trainer.held_out_loss()


def test_losses_are_those_of_stock_trl(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path
) -> None:
    """Own labels and the quick head on CPUs change speed, not numbers."""
    from datasets import Dataset
    from kubetune_runner.model.heads import trl_utils
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = tickets(64)
    plan = make_plan(rows=rows)
    quick_head = trl_utils._use_triton
    trainer, _ = fitted(plan)
    ours = losses(trainer)
    trl_utils._use_triton = quick_head
    stock = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        args=SFTConfig(
            str(tmp_path / "stock"),
            max_steps=8,
            learning_rate=0.01,
            per_device_train_batch_size=4,
            logging_steps=1,
            lr_scheduler_type="linear",
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            seed=42,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        peft_config=LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    stock.train()
    theirs = losses(stock)
    assert ours == pytest.approx(theirs, abs=1e-4)

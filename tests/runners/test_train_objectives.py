"""Training on preferences: real runs of each objective, and what becomes of their results."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubetune.api.run.plan import RunPlan
from kubetune_runner.answering.model import FineTunedModel
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.mlflow.upload import save, upload
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.signals import StopSignal
from kubetune_runner.training import objectives
from kubetune_runner.training.fitting import fit, make_trainer
from kubetune_runner.training.inputs import prepare
from kubetune_runner.training.objectives.base import Measure

from tests.runners.conftest import PlanFactory, Runner

pytestmark = pytest.mark.training

Row = dict[str, Any]
OWN: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.1, "lossType": ["sigmoid"], "labelSmoothing": 0.0},
    "kto": {"beta": 0.1, "lossType": "kto", "desirableWeight": 1.0, "undesirableWeight": 1.0},
    "reward": {},
}
ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
LN_2 = math.log(2)


def pairs(count: int, *, held_out: bool = False) -> list[Row]:
    """Tickets with the right answer and one that is always wrong."""
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": " I don't know."}
        for row in tickets(count, held_out=held_out)
    ]


def rated(count: int, *, held_out: bool = False) -> list[Row]:
    """The same, with all good answers first."""
    rows = pairs(count, held_out=held_out)
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for side in ("chosen", "rejected")
        for row in rows
    ]


def plan_for(make_plan: PlanFactory, objective: str, method: str = "lora", **over: Any) -> RunPlan:
    make, name = (rated, "unpairedPreference") if objective == "kto" else (pairs, "preference")
    training = {
        "objective": objective,
        objective: OWN[objective],
        "method": method,
        "hyperparameters": {"maxSteps": 6, "learningRate": 1e-3 if method == "full" else 0.01},
    }
    document = {"rows": make(16), "held_out": make(5, held_out=True)} | over
    plan = make_plan(dataset={"format": name}, **document).to_json()
    plan["training"] |= {k: v for k, v in training.items() if k != "hyperparameters"}
    plan["training"]["hyperparameters"] |= training["hyperparameters"]
    if method == "full":
        del plan["training"]["lora"]
    return RunPlan.model_validate(plan)


def measured(plan: RunPlan, trainer: Any, inputs: Any) -> dict[str, float]:
    measure = Measure(inputs.tokenizer, inputs.evaluation.rows, plan.training, inputs.context)
    return objectives.load(plan.training.objective).evaluate(trainer, measure).metrics


def fitted(plan: RunPlan) -> tuple[Any, Any, dict[str, float]]:
    """Trainer, inputs and the metrics before training, all in this process."""
    inputs = prepare(plan)
    trainer, progress = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    before = measured(plan, trainer, inputs)
    fit(plan, StopSignal(), trainer, progress)
    return trainer, inputs, before


def answer_likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Logarithm of the answer's probability, by the model's own forward."""
    import torch

    model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    before = len(prompt) - 1
    scores = logits[before : before + len(answer)].log_softmax(-1)
    return scores.gather(1, torch.tensor(answer)[:, None]).sum().item()


@pytest.mark.parametrize(
    ("method", "lora"),
    [("lora", {}), ("lora", {"modulesToSave": ["embed_tokens"], "dropout": 0.1}), ("full", {})],
    ids=["lora", "embedding", "full"],
)
def test_dpo_learns_and_compares_with_the_untrained_model(
    make_plan: PlanFactory, tiny_model: Path, tmp_path: Path, method: str, lora: Row
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plan = plan_for(make_plan, "dpo", method, training={"lora": lora})
    trainer, inputs, before = fitted(plan)
    after = measured(plan, trainer, inputs)
    assert set(after) == {
        "eval_loss",
        *(f"eval_rewards/{name}" for name in ("accuracies", "margins", "chosen", "rejected")),
    }
    assert before["eval_loss"] == pytest.approx(LN_2)
    assert before["eval_rewards/margins"] == pytest.approx(0, abs=1e-6)
    assert after["eval_loss"] < LN_2 - 0.01
    assert after["eval_rewards/accuracies"] == 1
    # One copy of the model with an adapter, and one adapter.
    assert (trainer.ref_model is None) == (method == "lora")
    adapters = ["default"] if method == "lora" else []
    assert list(getattr(trainer.model, "peft_config", {})) == adapters

    # Rewards by hand, from the model as it was and from the result as it is loaded.
    folder = tmp_path / "result"
    save(trainer.model, inputs.tokenizer, plan.model, folder, chat=False, max_new_tokens=8)
    untrained: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model if method == "lora" else folder)
    tuned: Any = PeftModel.from_pretrained(base, folder) if method == "lora" else base
    gains = {
        side: [
            answer_likelihood(tuned, row.prompt_ids, getattr(row, f"{side}_ids"))
            - answer_likelihood(untrained, row.prompt_ids, getattr(row, f"{side}_ids"))
            for row in inputs.evaluation.rows
        ]
        for side in ("chosen", "rejected")
    }
    for side, found in gains.items():
        mean = 0.1 * sum(found) / len(found)
        assert after[f"eval_rewards/{side}"] == pytest.approx(mean, abs=1e-3)


def test_kto_learns_from_answers_sorted_by_label(make_plan: PlanFactory) -> None:
    plan = plan_for(make_plan, "kto")
    trainer, inputs, before = fitted(plan)
    after = measured(plan, trainer, inputs)
    assert trainer.ref_model is None
    assert before["eval_loss"] == pytest.approx(0.5)
    assert after["eval_rewards/margins"] > 0.01
    assert after["eval_rewards/margins"] == pytest.approx(
        after["eval_rewards/chosen"] - after["eval_rewards/rejected"]
    )
    first = [trainer.train_dataset[at]["label"] for at in range(16)]
    assert True in first
    assert False in first


def test_kto_pairs_each_prompt_with_another_answer(make_plan: PlanFactory) -> None:
    plan = plan_for(make_plan, "kto", rows=rated(2) + rated(2)[:1])
    inputs = prepare(plan)
    table = objectives.load("kto").table(inputs.train.rows, plan.training)
    answers, others = table["completion_ids"], table["KL_completion_ids"]
    assert list(others[:4]) == [answers[3], *answers[:3]]
    assert others[4] == answers[3], "the last batch has one row"


def test_a_reward_model_of_chats_scores_chats(make_plan: PlanFactory, tmp_path: Path) -> None:
    def chat(row: dict[str, Any]) -> dict[str, Any]:
        turns = {name: [{"role": role, "content": row[name]}] for name, role in ROLES.items()}
        return {side: turns["prompt"] + turns[side] for side in ("chosen", "rejected")}

    rows = [chat(row) for row in pairs(8)]
    plan = plan_for(make_plan, "reward", "lora", rows=rows, held_out=rows[:4])
    trainer, inputs, _ = fitted(plan)
    after = measured(plan, trainer, inputs)
    folder = tmp_path / "adapter"
    save(
        trainer.model, inputs.tokenizer, plan.model, folder,
        chat=True, max_new_tokens=0, scores=True,
    )  # fmt: skip
    loaded = FineTunedModel()
    loaded.load_context(SimpleNamespace(artifacts={"adapter": str(folder)}, model_config={}))
    chats = [row[side] for row in rows[:4] for side in ("chosen", "rejected")]
    scores: Any = loaded.predict(None, [{"messages": turns} for turns in chats])
    assert sum(scores) / len(scores) == pytest.approx(after["eval_mean_reward"], abs=1e-3)
    split = [{"prompt": turns[:-1], "completion": turns[-1]["content"]} for turns in chats]
    assert loaded.predict(None, split) == pytest.approx(scores, abs=1e-3)
    with pytest.raises(ValueError, match="a score belongs to an answer"):
        loaded.predict(None, [turns[:-1] for turns in chats])


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_reward_model_gives_the_scores_that_it_learned(
    make_plan: PlanFactory, mlflow_server: str, tiny_model: Path, tmp_path: Path, method: str
) -> None:
    import mlflow
    import pandas
    import torch
    from mlflow.artifacts import download_artifacts
    from mlflow.tracking import MlflowClient
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    plan = plan_for(make_plan, "reward", method, tracking={"uri": mlflow_server})
    tracker = Tracker(plan)
    tracker.start()
    trainer, inputs, before = fitted(plan)
    after = measured(plan, trainer, inputs)
    assert set(after) == {"eval_loss", "eval_accuracy", "eval_margin", "eval_mean_reward"}
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_accuracy"] == 1

    folder = tmp_path / "result" / ("adapter" if method == "lora" else "model")
    save(
        trainer.model,
        inputs.tokenizer,
        plan.model,
        folder,
        chat=False,
        max_new_tokens=0,
        scores=True,
    )
    model_id = upload(tracker, folder, {})["modelId"]
    assert tracker.close("FINISHED", 30)
    client, name = MlflowClient(mlflow_server), f"reward-{method}"
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{model_id}", tracker.run_id, model_id=model_id)

    held_out = pairs(5, held_out=True)
    asked = [(row, side) for side in ("chosen", "rejected") for row in held_out]
    table = pandas.DataFrame(
        [{"prompt": row["prompt"], "completion": row[side]} for row, side in asked]
    )
    scores = list(mlflow.pyfunc.load_model(f"models:/{name}/1").predict(table))
    margin = sum(scores[at] - scores[at + 5] for at in range(5)) / 5
    assert margin == pytest.approx(after["eval_margin"], abs=1e-3)
    assert sum(scores) / 10 == pytest.approx(after["eval_mean_reward"], abs=1e-3)

    stored = Path(download_artifacts(artifact_uri=f"models:/{name}/1"))
    stored = stored / "artifacts" / folder.name
    tokenizer: Any = AutoTokenizer.from_pretrained(stored)
    assert tokenizer.pad_token
    if method == "lora":
        base: Any = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
        loaded: Any = PeftModel.from_pretrained(base, stored)
    else:
        loaded = AutoModelForSequenceClassification.from_pretrained(stored)
        assert loaded.config.pad_token_id == tokenizer.pad_token_id
        assert loaded.config.num_labels == 1
    loaded.eval()
    row = inputs.evaluation.rows[0]
    with torch.no_grad():
        score = loaded(input_ids=torch.tensor([row.prompt_ids + row.chosen_ids])).logits.item()
    assert score == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.parametrize("objective", ["dpo", "reward"])
def test_on_quantized_weights_there_is_one_adapter_in_fp32(
    make_plan: PlanFactory, objective: str
) -> None:
    import torch

    plan = plan_for(make_plan, objective)
    document = plan.to_json()
    document["training"] |= {"method": "qlora", "quantization": {"bits": 4, "type": "nf4"}}
    trainer, inputs, before = fitted(RunPlan.model_validate(document))
    assert measured(plan, trainer, inputs)["eval_loss"] < before["eval_loss"]
    assert list(trainer.model.peft_config) == ["default"]
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}


def test_a_dpo_run_of_chats_from_plan_to_outcome(
    make_plan: PlanFactory, mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    def chats(rows: list[Row]) -> list[Row]:
        return [
            {
                side: [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row[side]},
                ]
                for side in ("chosen", "rejected")
            }
            for row in rows
        ]

    rows = chats(pairs(16))
    equal = {"chosen": rows[0]["chosen"], "rejected": rows[0]["chosen"]}
    plan = plan_for(
        make_plan,
        "dpo",
        tracking={"uri": mlflow_server},
        rows=[*rows, equal],
        held_out=chats(pairs(5, held_out=True)),
        training={
            "hyperparameters": {"evaluationSteps": 3},
            "arguments": {"precompute_ref_log_probs": True},
        },
    )
    code, outcome = start_runner(plan).wait()
    assert (code, outcome.reason) == (0, "Trained"), outcome
    summary: Any = outcome.summary
    assert summary["rows"]["train"] == {
        "used": 16,
        "empty": 0,
        "unusable": 1,
        "cut": 0,
        "cutAway": 0,
        "dropped": 0,
        "hidden": 0,
    }
    assert summary["metrics"]["eval_rewards/accuracies"] == 1
    assert summary["metrics"]["train_loss"] < LN_2
    from mlflow.tracking import MlflowClient

    client = MlflowClient(mlflow_server)
    run = client.get_run(summary["runId"])
    assert run.data.params["kubetune.dpo.beta"] == "0.1"
    assert run.data.params["kubetune.objective"] == "dpo"
    history = client.get_metric_history(run.info.run_id, "eval_rewards/margins")
    assert [metric.step for metric in history][:2] == [3, 6]
    folder = Path(client.download_artifacts(run.info.run_id, "plan.json"))
    assert json.loads(folder.read_text())["training"]["dpo"] == OWN["dpo"]

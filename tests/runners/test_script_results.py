"""What a script has saved counts, whatever it logs, resizes or breaks on its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune.api.run.plan import RunPlan
from kubetune_runner import evaluate
from kubetune_runner.errors import RunError

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.evaluation_fixtures import EvaluationFactory

pytestmark = pytest.mark.training

SECONDS = 500
RESIZED = """
import os, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(os.environ["KUBETUNE_MODEL"])
tokenizer.add_tokens(["<first>", "<second>"])
model = AutoModelForCausalLM.from_pretrained(os.environ["KUBETUNE_MODEL"])
model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
targets = ["q_proj", "embed_tokens"] if EMBED else ["q_proj"]
config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
get_peft_model(model, config).save_pretrained(os.environ["KUBETUNE_OUTPUT"])
tokenizer.save_pretrained(os.environ["KUBETUNE_OUTPUT"])
"""
REPORTS = """
import mlflow
mlflow.log_params({"dataset": "of my own", "model": "mine", "method": "other", "lora.rank": "7"})
mlflow.log_metric("exact_match", 5.0, step=10_000)
mlflow.log_metric("eval_loss", 0.0, step=10_000)
mlflow.set_tag("dataset", "of my own")
"""
TWICE = """
mlflow.log_param("twice", "1")
mlflow.log_param("twice", "2")
"""


@pytest.fixture
def scripted(make_plan: PlanFactory, mlflow_server: str) -> Callable[..., RunPlan]:
    def build(text: str, **over: Any) -> RunPlan:
        given = {"name": "train.py", "text": text, "args": []}
        training = {"script": given, **over.pop("training", {})}
        return make_plan(training=training, tracking={"uri": mlflow_server}, **over)

    return build


def run_of(server: str, run_id: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(server).get_run(run_id)


@pytest.mark.parametrize("embed", [False, True])
def test_an_adapter_on_resized_embeddings_is_measured_merged_and_loaded(
    scripted: Callable[..., RunPlan],
    make_evaluation: EvaluationFactory,
    mlflow_server: str,
    fork_runner: Callable[..., Runner],
    tiny_model: Path,
    embed: bool,
) -> None:
    import mlflow

    text = RESIZED.replace("EMBED", str(embed)) + REPORTS
    runner = fork_runner(scripted(text, merge=True))
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.reason) == (0, "Trained"), (outcome, runner.log)
    summary: Any = outcome.summary
    mlflow.set_tracking_uri(mlflow_server)
    answers: list[str] = []
    for model_id in (summary["modelId"], summary["merged"]["modelId"]):
        loaded = mlflow.pyfunc.load_model(f"models:/{model_id}")
        answers += loaded.predict(["My router does not work."])
    assert answers[0] == answers[1]

    # As a candidate it is what it was in the job.
    uri = f"models:/{summary['modelId']}"
    base = {"name": "tiny", "type": "base", "directory": str(tiny_model)}
    adapter = {"type": "adapter", "directory": None, "registryUri": uri, "base": base}
    plan = make_evaluation(
        model=adapter, metrics=["loss"], tracking={"uri": mlflow_server}, run={"runKey": uri}
    )
    found: Any = fork_runner(plan).wait(SECONDS)[1].summary
    assert found["metrics"]["loss"]["value"] == pytest.approx(
        summary["metrics"]["eval_loss"], rel=1e-4
    )


@pytest.mark.parametrize("end", ["", TWICE], ids=["goes on", "is refused"])
def test_reports_of_the_script_cost_no_result(
    scripted: Callable[..., RunPlan],
    mlflow_server: str,
    fork_runner: Callable[..., Runner],
    end: str,
) -> None:
    """Also a report that MLflow refuses, which ends the script after it has saved."""
    runner = fork_runner(scripted(RESIZED.replace("EMBED", "False") + REPORTS + end))
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.reason) == (0, "Trained"), (outcome, runner.log)
    assert ("MLflow refused" in outcome.message) == bool(end)
    summary: Any = outcome.summary
    run = run_of(mlflow_server, summary["runId"])
    assert run.data.params["dataset"] == "of my own"
    assert run.data.params["lora.rank"] == "7"
    assert run.data.params["kubetune.dataset"] == "tickets"
    assert run.data.params["kubetune.lora.rank"] == "4"
    assert run.data.tags[names.TAG_MODEL_ID] == summary["modelId"]
    # What is known of the result without the run's own word is ours, too.
    told = json.loads(run.data.tags[names.TAG_METRICS])
    assert told == summary["metrics"]
    assert told["eval_loss"] > 0
    assert run.data.metrics["eval_loss"] == 0.0
    assert run.data.metrics["kubetune.eval_loss"] == told["eval_loss"]


def test_a_script_that_reports_wrongly_before_it_saves_has_failed(
    scripted: Callable[..., RunPlan], fork_runner: Callable[..., Runner]
) -> None:
    text = "import mlflow\n" + TWICE + RESIZED.replace("EMBED", "False")
    code, outcome = fork_runner(scripted(text)).wait(SECONDS)
    assert (code, outcome.reason) == (64, "ScriptFailed")


def test_a_saved_adapter_without_numbers_ends_once(
    scripted: Callable[..., RunPlan], fork_runner: Callable[..., Runner]
) -> None:
    text = RESIZED.replace("EMBED", "False").replace(
        "get_peft_model(model, config).save",
        "tuned = get_peft_model(model, config)\n"
        "for p in tuned.parameters(): p.data.fill_(float('nan'))\n"
        "tuned.save",
    )
    code, outcome = fork_runner(scripted(text)).wait(SECONDS)
    assert (code, outcome.reason, outcome.retryable) == (64, "LossNotFinite", False), outcome
    assert "that the code left" in outcome.message


def test_an_adapter_that_does_not_fit_says_all_of_it(
    scripted: Callable[..., RunPlan], fork_runner: Callable[..., Runner]
) -> None:
    text = RESIZED.replace("EMBED", "False").replace(
        'get_peft_model(model, config).save_pretrained(os.environ["KUBETUNE_OUTPUT"])',
        "tuned = get_peft_model(model, config)\n"
        'tuned.save_pretrained(os.environ["KUBETUNE_OUTPUT"])\n'
        "from safetensors.torch import load_file, save_file\n"
        'path = os.environ["KUBETUNE_OUTPUT"] + "/adapter_model.safetensors"\n'
        "save_file({n: t[:, :3].contiguous() if 'lora_A' in n else t"
        " for n, t in load_file(path).items()}, path)",
    )
    code, outcome = fork_runner(scripted(text)).wait(SECONDS)
    assert (code, outcome.reason) == (64, "ResultUnreadable"), outcome
    assert "size mismatch for" in outcome.message
    assert "lora_A" in outcome.message


def test_refused_reports_cost_no_others(mlflow_server: str, make_plan: PlanFactory) -> None:
    """MLflow refuses a batch as a whole."""
    from kubetune_runner.mlflow.tracking import Tracker

    first = Tracker(make_plan(tracking={"uri": mlflow_server}))
    first.start()
    first.params({"taken": "1"})
    assert first.close("RUNNING", 60)
    second = Tracker(make_plan(tracking={"uri": mlflow_server}))
    second.params({"taken": "2", "free": "3"})
    second.tags({"kubetune.model_id": "m-1"})
    second.metrics({"eval_loss": 0.5}, 3)
    second.start()
    assert second.close("FINISHED", 60)
    run = run_of(mlflow_server, second.run_id or "")
    assert run.data.params == {"taken": "1", "free": "3"}
    assert run.data.tags["kubetune.model_id"] == "m-1"
    assert run.data.metrics["eval_loss"] == 0.5


def test_a_deleted_experiment_ends_the_run_with_the_way_out(
    mlflow_server: str, make_plan: PlanFactory, fork_runner: Callable[..., Runner]
) -> None:
    """MLflow keeps its name and takes no run for it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(mlflow_server)
    client.delete_experiment(client.create_experiment("gone"))
    tracking = {"uri": mlflow_server, "experiment": "gone"}
    runner = fork_runner(make_plan(tracking=tracking))
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.reason) == (64, "ExperimentDeleted"), (outcome, runner.log)
    assert "mlflow experiments restore -x" in outcome.message


@pytest.mark.usefixtures("plain_process")
def test_a_version_that_was_deleted_is_not_asked_for_again(
    make_evaluation: EvaluationFactory, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubetune_runner.mlflow.closing.CLOSE_SECONDS", 0.0)
    gone = {"directory": None, "registryUri": "models:/nothing/1"}
    with pytest.raises(RunError) as caught:
        evaluate.run(make_evaluation(model=gone, tracking={"uri": mlflow_server}))
    assert (caught.value.reason, caught.value.retryable) == ("RegistryNotFound", False)

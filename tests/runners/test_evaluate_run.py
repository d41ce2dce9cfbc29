"""Evaluations of real candidates against a real MLflow server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run import evaluation_plan
from kubetune.api.run import plan as names
from kubetune.api.run.evaluation_plan import EvaluationSummary
from kubetune_runner import evaluate
from kubetune_runner.sample.tickets import tickets

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.evaluation_fixtures import EvaluationFactory, adapter_of

pytestmark = [pytest.mark.training, pytest.mark.usefixtures("plain_process")]

ALL_METRICS = [
    "loss",
    "perplexity",
    "bitsPerByte",
    "exactMatch",
    "tokenF1",
    "rouge1",
    "rougeL",
    "bleu",
    "chrf",
    "jsonFields",
    "length",
    "latency",
]


def test_a_base_model_and_its_adapter_are_evaluated(
    make_plan: PlanFactory,
    make_evaluation: EvaluationFactory,
    mlflow_server: str,
    start_runner: Callable[..., Runner],
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.tracking import MlflowClient

    tracking = {"uri": mlflow_server}
    training = make_plan(
        tracking=tracking, training={"evaluation": {"maxRows": 8, "maxNewTokens": 8}}
    )
    trained = start_runner(training).wait()[1]
    assert trained.reason == "Trained", trained
    client = MlflowClient(mlflow_server)
    wanted: Any = trained.summary
    registered = f"{training.run.run_key}-tuned"
    client.create_registered_model(registered)
    model_id = wanted["modelId"]
    version = client.create_model_version(
        registered, f"models:/{model_id}", wanted["runId"], model_id=model_id
    )

    summaries: dict[str, EvaluationSummary] = {}
    for candidate, model in (
        ("base", {}),
        (
            "tuned",
            adapter_of(tiny_model)
            | {"directory": None, "registryUri": f"models:/{registered}/{version.version}"},
        ),
    ):
        plan = make_evaluation(
            candidate=candidate,
            model=model,
            metrics=ALL_METRICS,
            tracking=tracking,
            run={"runKey": f"{training.run.run_key}-{candidate}"},
        )
        outcome = evaluate.run(plan) if candidate == "base" else start_runner(plan).wait()[1]
        assert (outcome.status, outcome.reason) == ("succeeded", "Evaluated"), outcome
        summary = summaries[candidate] = EvaluationSummary.model_validate(outcome.summary)
        assert list(summary.metrics) == ALL_METRICS
        assert (summary.rows, summary.skipped) == (8, 0)
        assert "reference is not a JSON object" in (summary.metrics["jsonFields"].error or "")
        run = client.get_run(summary.run_id)
        assert run.info.status == "FINISHED"
        assert run.info.run_name == f"ns/job/{candidate}"
        for tag, value in {
            names.TAG_RUN_KEY: plan.run.run_key,
            names.TAG_PHASE: "succeeded",
            names.TAG_TOTAL_STEPS: "8",
            evaluation_plan.TAG_EVALUATION: "job",
            evaluation_plan.TAG_CANDIDATE: candidate,
            evaluation_plan.TAG_EVALUATION_DIGEST: "sha256:1",
        }.items():
            assert run.data.tags[tag] == value
        tag = run.data.tags[evaluation_plan.TAG_EVALUATION_SUMMARY]
        assert EvaluationSummary.model_validate_json(tag) == summary
        assert run.data.metrics[names.METRIC_STEP] == 8
        path = client.download_artifacts(summary.run_id, evaluation_plan.ROWS_ARTIFACT)
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
        assert [line["row"] for line in lines] == list(range(8))
        assert lines[0]["reference"] == tickets(1, held_out=True)[0]["completion"]
        for name, measured in summary.metrics.items():
            if measured.value is None:
                continue
            assert run.data.metrics[name] == measured.value
            assert measured.low is not None
            assert measured.high is not None
            assert measured.low <= measured.value <= measured.high
            assert all(math.isfinite(line["metrics"][name]) for line in lines)
            if name in ("exactMatch", "tokenF1", "length"):
                mean = sum(line["metrics"][name] for line in lines) / 8
                assert measured.value == pytest.approx(mean, rel=1e-5)
        path = client.download_artifacts(summary.run_id, evaluation_plan.SAMPLES_ARTIFACT)
        samples = [json.loads(line) for line in Path(path).read_text().splitlines()]
        assert samples == lines[:2]
    assert summaries["base"].rows_digest == summaries["tuned"].rows_digest

    # The same rows, masks and texts as in training: the same numbers.
    tuned = summaries["tuned"].metrics
    for name, key in (
        ("loss", "eval_loss"),
        ("perplexity", "perplexity"),
        ("exactMatch", "exact_match"),
        ("tokenF1", "token_f1"),
    ):
        assert tuned[name].value == pytest.approx(wanted["metrics"][key], rel=1e-4), name
    assert (tuned["loss"].value or 9) < (summaries["base"].metrics["loss"].value or 0)
    logged = client.get_logged_model(model_id)
    on_model = {metric.key: metric.value for metric in logged.metrics or []}
    assert on_model["tokenF1"] == tuned["tokenF1"].value

    # What is measured isn't measured again.
    monkeypatch.setattr(evaluate, "_measure", None)
    assert evaluate.run(plan).summary == summaries["tuned"].to_json()

"""A real training with axolotl, where there is one: ``AXOLOTL_PYTHON`` names its Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from kubetune.api.run import plan as names

from tests.runners.conftest import PlanFactory, Runner

pytestmark = [
    pytest.mark.training,
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        "AXOLOTL_PYTHON" not in os.environ, reason="AXOLOTL_PYTHON names no Python with axolotl"
    ),
]


def test_axolotl_trains_an_adapter_on_a_cpu(
    make_plan: PlanFactory, mlflow_server: str, start_runner: Callable[..., Runner]
) -> None:
    from mlflow.tracking import MlflowClient

    plan = make_plan(
        tracking={"uri": mlflow_server},
        training={
            "axolotl": {"config": {"optimizer": "adamw_torch", "max_steps": 6}},
            "hyperparameters": {"learningRate": 0.01},
            "evaluation": {"baseline": True},
        },
    )
    runner = start_runner(plan, CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
    code, outcome = runner.wait(1500)
    assert (code, outcome.reason) == (0, "Trained"), (outcome, runner.log)
    summary: Any = outcome.summary
    assert outcome.message.startswith("the code left an adapter")
    assert summary["metrics"]["eval_loss"] < summary["metrics"]["baseline_eval_loss"]
    run = MlflowClient(mlflow_server).get_run(summary["runId"])
    assert run.data.tags[names.TAG_TOTAL_STEPS] == "6"
    assert run.data.metrics[names.METRIC_STEP] == 6
    assert run.data.metrics["loss"] > 0

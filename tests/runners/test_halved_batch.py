"""An attempt with half of the batch goes on where the one before it ran out of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from kubetune.api.run.plan import TAG_RUN_KEY, BatchPlan, RunPlan
from kubetune_runner import outcomes
from kubetune_runner.__main__ import read_plan
from kubetune_runner.errors import RunError
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.training import objectives
from kubetune_runner.training.progress import Progress
from mlflow.tracking import MlflowClient

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.fitting import fitted, losses
from tests.runners.forking import Forks
from tests.runners.test_train_objectives import pairs, plan_for, rated
from tests.runners.test_train_workers import result, told
from tests.runners.worker_processes import run_workers

HALF = BatchPlan(per_device_batch_size=2, gradient_accumulation_steps=2)
ROWS = 22
"""Rows of an epoch, which ends with half of a batch, and half of that is what a smaller one has."""


def with_batch(plan: RunPlan, batch: BatchPlan | None) -> RunPlan:
    """The plan of an attempt as the runner trains it."""
    return plan.model_copy(update={"batch": batch}).in_force


def short_of_memory(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The device runs out of memory after a step, once."""
    after, left = Progress.on_step_end, [1]

    def on_step_end(self: Progress, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == step and left:
            left.clear()
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        after(self, args, state, control, **more)

    monkeypatch.setattr(Progress, "on_step_end", on_step_end)


def small(make_plan: PlanFactory, objective: str, folder: Path, **numbers: Any) -> RunPlan:
    """Eight steps in more than an epoch, with checkpoints of some."""
    if objective == "sft":
        document = make_plan(rows=tickets(ROWS)).to_json()
    else:
        rows = rated(ROWS // 2) if objective == "kto" else pairs(ROWS)
        document = plan_for(make_plan, objective, rows=rows).to_json()
    training = document["training"]
    training["hyperparameters"] |= {"maxSteps": 8, "precision": "fp32", **numbers}
    training["checkpoint"] |= {"everySteps": 3, "directory": str(folder)}
    training["evaluation"] |= {"maxRows": 0}
    return RunPlan.model_validate(document)


@pytest.mark.training
@pytest.mark.parametrize(
    ("objective", "numbers"),
    [
        ("sft", {}),
        ("sft", {"packing": True, "maxLength": 64}),
        ("dpo", {}),
        ("kto", {}),
        ("reward", {}),
    ],
    ids=["sft", "packing", "dpo", "kto", "reward"],
)
def test_it_goes_on_from_the_checkpoint_with_the_same_losses(
    make_plan: PlanFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: str,
    numbers: dict[str, Any],
) -> None:
    through, _ = fitted(small(make_plan, objective, tmp_path / "through", **numbers))
    expected = losses(through)
    assert len(expected) == 8
    broken = small(make_plan, objective, tmp_path / "broken", **numbers)
    with monkeypatch.context() as patch:
        short_of_memory(patch, 5)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            fitted(broken)
    assert outcomes.from_error(caught.value).reason == "OutOfMemory"
    begun: list[int] = []
    monkeypatch.setattr(Progress, "on_train_begin", _noting(begun))
    again, _ = fitted(with_batch(broken, HALF))
    assert begun == [3], "from the newest checkpoint"
    given = again.args.per_device_train_batch_size, again.args.gradient_accumulation_steps
    assert given == (2, 2)
    assert again.state.global_step == 8
    # What kto compares an answer with is of the rows of a batch.
    close = 1e-3 if objective != "kto" else 0.3
    assert losses(again) == pytest.approx(expected, rel=close)
    measured = [trainer.held_out_metrics()["loss"] for trainer in (again, through)]
    assert measured[0] == pytest.approx(measured[1], rel=close)


def _noting(begun: list[int]) -> Any:
    inherited = Progress.on_train_begin

    def on_train_begin(self: Progress, args: Any, state: Any, control: Any, **more: Any) -> None:
        begun.append(state.global_step)
        inherited(self, args, state, control, **more)

    return on_train_begin


@pytest.mark.training
def test_one_of_two_workers_runs_out_of_memory(make_plan: PlanFactory, tmp_path: Path) -> None:
    def full(rank: int, step: int) -> None:
        if (rank, step) == (1, 3):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    objectives.load("sft")
    through, broken = tmp_path / "through", tmp_path / "broken"
    plans = [small(make_plan, "sft", folder, perDeviceBatchSize=2) for folder in (through, broken)]
    whole, parted = (plan.model_copy(update={"workers": 2}) for plan in plans)
    run_workers(whole)
    reasons = told(*run_workers(parted, full))
    assert reasons[1] == "OutOfMemory"
    assert reasons[0] == "WorkerLost", "which nobody blames"
    ones = BatchPlan(per_device_batch_size=1, gradient_accumulation_steps=2)
    again = run_workers(parted.model_copy(update={"batch": ones}))
    assert told(*again) == ["TrackingUnavailable", "Trained"]
    # The last batch of an epoch is filled up with other rows of its beginning.
    epoch = ROWS // 4
    found, expected = result(broken, 8)[0], result(through, 8)[0]
    assert len(found) == 8
    assert found[:epoch] == pytest.approx(expected[:epoch], rel=1e-3)
    assert found == pytest.approx(expected, rel=0.1)


@pytest.mark.training
def test_the_run_tells_what_is_declared_and_what_it_trains_with(
    make_plan: PlanFactory, mlflow_server: str, tmp_path: Path, forks: Forks
) -> None:
    tracking = {"uri": mlflow_server, "experiment": "halved"}
    plan = make_plan(tracking=tracking, training={"hyperparameters": {"maxSteps": 2}})
    first = Runner(plan, tmp_path, forks, KUBETUNE_ATTEMPT="1")
    assert first.wait()[0] == 0, first.log
    client = MlflowClient(mlflow_server)
    (experiment,) = client.search_experiments(filter_string="name = 'halved'")

    def run() -> Any:
        wanted = f"tags.`{TAG_RUN_KEY}` = '{plan.run.run_key}'"
        (found,) = client.search_runs([experiment.experiment_id], wanted)
        return found

    assert "kubetune.perDeviceBatchSize" not in run().data.tags
    second = Runner(plan, tmp_path, forks, KUBETUNE_ATTEMPT="2", KUBETUNE_BATCH="2x2")
    code, outcome = second.wait()
    assert (code, outcome.reason) == (0, "Trained"), second.log
    data = run().data
    assert data.params["kubetune.hyperparameters.perDeviceBatchSize"] == "4"
    assert data.params["kubetune.hyperparameters.gradientAccumulationSteps"] == "1"
    assert data.tags["kubetune.perDeviceBatchSize"] == "2"
    assert data.tags["kubetune.gradientAccumulationSteps"] == "2"
    path = client.download_artifacts(run().info.run_id, "plan.json", str(tmp_path))
    document = json.loads(Path(path).read_text())
    numbers = document["training"]["hyperparameters"]
    assert (numbers["perDeviceBatchSize"], numbers["gradientAccumulationSteps"]) == (2, 2)
    assert document["batch"] == HALF.to_json()
    assert "already logged" not in second.log


@pytest.mark.parametrize("text", ["4", "x", "0x8", "4x-2", "fourx2", "4x2x1"])
def test_a_batch_that_can_not_be_read_ends_the_run(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(make_plan().to_json()))
    monkeypatch.setenv("KUBETUNE_BATCH", text)
    with pytest.raises(RunError) as caught:
        read_plan(path)
    assert caught.value.reason == "PlanInvalid"
    assert text in caught.value.message


def test_the_batch_takes_the_place_of_what_is_declared(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, path = make_plan(), tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_json()))
    assert read_plan(path) == plan
    monkeypatch.setenv("KUBETUNE_BATCH", "2x2")
    found = read_plan(path)
    assert isinstance(found, RunPlan)
    assert found.training == plan.training
    numbers = found.in_force.training.hyperparameters
    assert (numbers.per_device_batch_size, numbers.gradient_accumulation_steps) == (2, 2)
    assert found.in_force.lineage_digest == plan.lineage_digest

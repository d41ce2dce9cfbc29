"""Reports reach MLflow late rather than never; attempts go on where the last one stopped."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubetune.api.run import plan as names
from kubetune.api.run.outcome import ExitCode
from kubetune.api.run.plan import RunPlan
from kubetune_runner.mlflow.tracking import Tracker
from kubetune_runner.sample.tickets import tickets
from kubetune_runner.training.checkpoints import numbered
from kubetune_runner.training.progress import Progress

from tests.cluster.relay import Relay
from tests.runners.conftest import PlanFactory, Runner
from tests.runners.fitting import fitted, losses


def client_of(server: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(server)


def runs_of(server: str, run_key: str) -> list[Any]:
    client = client_of(server)
    experiment = client.get_experiment_by_name("tests")
    return client.search_runs(
        [experiment.experiment_id], f"tags.`{names.TAG_RUN_KEY}` = '{run_key}'"
    )


@pytest.fixture
def relay(mlflow_server: str) -> Iterator[Relay]:
    relay = Relay(mlflow_server)
    yield relay
    relay.close()


def test_reports_are_kept_while_mlflow_is_away(
    make_plan: PlanFactory, mlflow_server: str, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubetune_runner.mlflow.tracking.FLUSH_SECONDS", 0.1)
    relay.mode = "refuse"
    plan = make_plan(tracking={"uri": relay.url})
    tracker = Tracker(plan)
    tracker.start()
    tracker.phase("training")
    for step in range(1, 2501):
        tracker.metrics({"loss": 1 / step}, step)
    assert tracker.wait_run(1.0) is None
    relay.mode = "forward"
    run_id = tracker.wait_run(60)
    assert run_id is not None
    relay.mode = "refuse"
    tracker.metrics({"loss": 0.0}, 2501)
    tracker.phase("evaluating")
    relay.mode = "forward"
    assert tracker.close("FINISHED", 60)
    history = client_of(mlflow_server).get_metric_history(run_id, "loss")
    assert [metric.step for metric in history] == list(range(1, 2502))
    assert client_of(mlflow_server).get_run(run_id).data.tags[names.TAG_PHASE] == "evaluating"


def test_a_report_that_mlflow_refuses_does_not_hold_up_the_next(
    make_plan: PlanFactory, mlflow_server: str
) -> None:
    tracker = Tracker(make_plan(tracking={"uri": mlflow_server}))
    tracker.start()
    assert tracker.wait_run(60)
    tracker.call(lambda client, run_id: client.log_metric(run_id, "not/allowed?!", 1.0))
    tracker.metrics({"loss": 2.0}, 1)
    assert tracker.close("FINISHED", 60)
    run = client_of(mlflow_server).get_run(tracker.run_id)
    assert run.data.metrics["loss"] == 2.0
    assert run.info.status == "FINISHED"


def test_what_is_told_belongs_to_the_attempt_and_its_last_step(
    make_plan: PlanFactory, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow itself shows the metrics of the highest step, which an earlier attempt has made."""
    plan = make_plan(tracking={"uri": mlflow_server})
    # No flush comes between the start and the end of either.
    monkeypatch.setattr("kubetune_runner.mlflow.tracking.FLUSH_SECONDS", 600.0)
    for attempt, step, loss in ((1, 200, 0.25), (2, 136, 0.5)):
        monkeypatch.setenv(names.ENV_ATTEMPT, str(attempt))
        tracker = Tracker(plan)
        tracker.start()
        assert tracker.wait_run(60)
        reached = {names.METRIC_STEP: 0.0}
        tracker.watch(lambda now=reached: (int(now[names.METRIC_STEP]), now))
        tracker.metrics({"loss": loss, "grad_norm": 1.0}, step, once=True)
        reached[names.METRIC_STEP] = float(step)
        assert tracker.close("KILLED", 60)
        data = client_of(mlflow_server).get_run(tracker.run_id).data
        told = json.loads(data.tags[names.TAG_PROGRESS])
        assert told == {"attempt": attempt, names.METRIC_STEP: step, "loss": loss}
    assert (data.metrics["loss"], data.metrics[names.METRIC_STEP]) == (0.25, 200)


@pytest.mark.training
def test_an_interrupted_run_goes_on_in_the_same_mlflow_run(
    make_plan: PlanFactory,
    mlflow_server: str,
    fork_runner: Callable[..., Runner],
    tmp_path: Path,
) -> None:
    """SIGTERM saves the step it came in; SIGKILL loses what came after the last checkpoint."""
    plan = make_plan(
        rows=tickets(200),
        tracking={"uri": mlflow_server},
        training={
            "lora": {"dropout": 0.1},
            "hyperparameters": {"maxSteps": 100, "loggingSteps": 1},
            "checkpoint": {"everySteps": 30},
        },
    )
    first = fork_runner(plan, KUBETUNE_ATTEMPT="1")
    first.wait_for("step 10/")
    first.process.send_signal(signal.SIGTERM)
    code, outcome = first.wait()
    assert (code, outcome.status) == (ExitCode.INTERRUPTED, "interrupted"), outcome
    saved = [int(p.name.split("-")[1]) for p in (tmp_path / "checkpoints").glob("checkpoint-*")]
    assert len(saved) == 1
    assert 10 <= saved[0] < 100
    [run] = runs_of(mlflow_server, plan.run.run_key)
    assert (run.info.status, run.data.tags[names.TAG_PHASE]) == ("KILLED", "interrupted")
    told = json.loads(run.data.tags[names.TAG_PROGRESS])
    assert told[names.TOLD_CHECKPOINT] == saved[0]
    assert abs(told[names.TOLD_CHECKPOINT_TIME] - time.time()) < 3600

    second = fork_runner(plan, KUBETUNE_ATTEMPT="2")
    second.wait_for("step 65/")
    second.process.kill()
    second.process.wait()

    code, outcome = fork_runner(plan, KUBETUNE_ATTEMPT="3").wait()
    assert code == 0, outcome
    [run] = runs_of(mlflow_server, plan.run.run_key)
    history = client_of(mlflow_server).get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in history] == list(range(1, 101))
    assert run.data.tags[names.TAG_ATTEMPT] == "3"
    told = json.loads(run.data.tags[names.TAG_PROGRESS])
    assert (told["attempt"], told[names.METRIC_STEP], told["loss"]) == (3, 100, history[-1].value)
    assert told[names.TOLD_CHECKPOINT] == 100
    assert (outcome.summary["steps"], outcome.summary["loss"]) == (100, history[-1].value)
    assert outcome.summary["epoch"] == told["epoch"]
    assert outcome.summary["learningRate"] == told["learning_rate"]

    document = plan.to_json()
    document["training"]["checkpoint"]["directory"] = str(tmp_path / "other")
    uninterrupted, _ = fitted(RunPlan.model_validate(document))
    assert [metric.value for metric in history] == pytest.approx(losses(uninterrupted), abs=2e-4)


@pytest.mark.training
def test_a_checkpoint_is_also_written_after_minutes_without_one(
    make_plan: PlanFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a clock of the test's own, on which each step takes 40 seconds."""
    now = 0.0

    class Slow(Progress):
        def on_step_begin(self, *given: Any, **others: Any) -> None:
            nonlocal now
            now += 40
            super().on_step_begin(*given, **others)

    clock = SimpleNamespace(monotonic=lambda: now, time=time.time)
    monkeypatch.setattr("kubetune_runner.training.progress.time", clock)
    monkeypatch.setattr("kubetune_runner.training.progress.Progress", Slow)
    plan = make_plan(
        training={
            "hyperparameters": {"maxSteps": 7},
            "checkpoint": {"everySteps": 100, "everyMinutes": 1, "keep": 9},
        }
    )
    fitted(plan)
    assert [path.name for path in numbered(tmp_path / "checkpoints")] == [
        f"checkpoint-{step}" for step in (2, 4, 6, 7)
    ]


@pytest.mark.training
def test_a_result_that_can_not_be_uploaded_is_uploaded_by_the_next_attempt(
    make_plan: PlanFactory,
    mlflow_server: str,
    relay: Relay,
    fork_runner: Callable[..., Runner],
) -> None:
    relay.mode = "refuse"
    plan = make_plan(tracking={"uri": relay.url})
    code, outcome = fork_runner(plan, KUBETUNE_UPLOAD_PATIENCE_SECONDS="1").wait()
    assert (code, outcome.reason) == (ExitCode.FAILED, "TrackingUnavailable"), outcome
    relay.mode = "forward"
    again = fork_runner(plan)
    started = time.monotonic()
    code, outcome = again.wait()
    assert code == 0, (outcome, time.monotonic() - started)
    assert "checkpoint-8" in again.log
    summary: Any = outcome.summary
    assert summary["steps"] == 8
    assert client_of(mlflow_server).get_logged_model(summary["modelId"])

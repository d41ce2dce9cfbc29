"""Several processes in one worker: they learn what as many workers do, and end together."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from kubetune.api.run.plan import ENV_PROCESS, RunPlan
from kubetune_runner.training import checkpoints

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.test_train_workers import result, small

pytestmark = pytest.mark.training

SECONDS = 400
MANY_STEPS = {"maxSteps": 1000, "loggingSteps": 1}


def processes_of(runner: Runner) -> dict[int, psutil.Process]:
    """What trains, by its number."""
    children = psutil.Process(runner.process.pid).children(recursive=True)
    numbered = {child: child.environ().get(ENV_PROCESS) for child in children}
    return {int(number): child for child, number in numbered.items() if number is not None}


def of_processes(plan: RunPlan, workers: int, processes: int) -> RunPlan:
    return plan.model_copy(update={"workers": workers, "processes": processes})


def tracked(plan: RunPlan, server: str, name: str) -> RunPlan:
    """The plan as a run of its own at a tracking server."""
    run = plan.run.model_copy(update={"run_key": f"{plan.run.run_key}-{name}"})
    where = plan.tracking.model_copy(update={"uri": server, "experiment": "processes"})
    return plan.model_copy(update={"run": run, "tracking": where})


@pytest.mark.parametrize(
    "shape", [pytest.param((1, 2), marks=pytest.mark.exhaustive), (2, 2)], ids=str
)
def test_processes_learn_what_one_with_the_whole_batch_does(
    make_plan: PlanFactory,
    tmp_path: Path,
    together: Callable[..., list[Runner]],
    mlflow_server: str,
    shape: tuple[int, int],
) -> None:
    found: list[list[float]] = []
    for workers, processes in ((1, 1), shape):
        folder = tmp_path / f"of-{workers}-{processes}"
        plan = tracked(
            small(make_plan, folder, workers * processes), mlflow_server, f"{workers}x{processes}"
        )
        runners = together(of_processes(plan, workers, processes))
        for worker, runner in enumerate(runners):
            code, outcome = runner.wait(SECONDS)
            assert (code, outcome.reason) == (0, "Trained"), runner.log
            # One has a result, and registers it once.
            assert bool(outcome.summary) == (worker == 0)
        found.append(result(folder, 4)[0])
        assert len(found[-1]) == 4
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_a_killed_process_ends_the_others_and_is_named(
    make_plan: PlanFactory, tmp_path: Path, start_runner: Callable[..., Runner]
) -> None:
    plan = small(make_plan, tmp_path / "checkpoints", 2, hyperparameters=MANY_STEPS)
    runner = start_runner(of_processes(plan, 1, 2), OMP_NUM_THREADS="1")
    runner.wait_for("step 3/", SECONDS)
    both = processes_of(runner)
    assert both.keys() == {0, 1}
    both[1].send_signal(signal.SIGKILL)
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.status, outcome.reason) == (137, "failed", "RunFailed"), runner.log
    assert outcome.message.startswith("rank 1 of 2: The process ended with exit code 137 (SIGKILL)")
    assert outcome.retryable
    psutil.wait_procs(both.values(), 30)
    assert not any(process.is_running() for process in both.values())


def test_a_signal_stops_all_after_a_checkpoint_and_the_next_attempt_goes_on(
    make_plan: PlanFactory, tmp_path: Path, start_runner: Callable[..., Runner]
) -> None:
    folder = tmp_path / "checkpoints"
    plan = of_processes(small(make_plan, folder, 2, hyperparameters=MANY_STEPS), 1, 2)
    runner = start_runner(plan, OMP_NUM_THREADS="1")
    runner.wait_for("step 3/", SECONDS)
    # As a kubelet does: it tells the first process alone.
    runner.process.send_signal(signal.SIGTERM)
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.status) == (75, "interrupted"), runner.log
    newest = checkpoints.newest(folder, plan.lineage_digest)
    assert newest is not None
    step = checkpoints.step_of(newest)
    assert f"step {step}/" in runner.log
    assert f"step {step + 1}/" not in runner.log
    # It warns, and tells nothing else.
    others = [line for line in runner.log.splitlines() if line.startswith("[rank 1] 20")]
    assert not any(" INFO " in line for line in others)
    again = start_runner(plan, OMP_NUM_THREADS="1")
    again.wait_for(f"continuing from {newest}", SECONDS)
    again.wait_for(f"step {step + 1}/", SECONDS)


def test_what_one_process_finds_wrong_is_seen_and_ends_all(
    make_plan: PlanFactory, tmp_path: Path, start_runner: Callable[..., Runner]
) -> None:
    plan = small(make_plan, tmp_path / "checkpoints", 2)
    dataset = plan.dataset.model_copy(update={"digest": f"sha256:{'0' * 64}"})
    plan = of_processes(plan.model_copy(update={"dataset": dataset}), 1, 2)
    runner = start_runner(plan)
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.reason) == (64, "DatasetChanged"), runner.log
    assert "rank" not in outcome.message
    assert "[rank 1] " in runner.log

"""The user's code in several processes of several workers."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubetune.api.run.plan import RunPlan

from tests.runners.conftest import PlanFactory, Runner
from tests.runners.test_processes import SECONDS, of_processes, tracked
from tests.runners.test_script import TRAINER

pytestmark = pytest.mark.training

ENDS = """
import os, signal, sys, time
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == (str(rank), str(size))
told = "MLFLOW_RUN_ID" in os.environ, "KUBEFLOW_TRAINER_SERVER_URL" in os.environ
print("GIVEN", rank, os.environ["LOCAL_RANK"], os.environ["GROUP_RANK"], *told, flush=True)
dist.barrier()
if rank == 1:
    END
dist.barrier()
time.sleep(600)
"""


def scripted(make_plan: PlanFactory, text: str, **over: Any) -> RunPlan:
    script = {"name": "train.py", "text": text, "args": []}
    return make_plan(training={"script": script, **over.pop("training", {})}, **over)


def test_a_plain_trainer_learns_in_four_processes_what_it_learns_in_one(
    make_plan: PlanFactory,
    tmp_path: Path,
    together: Callable[..., list[Runner]],
    mlflow_server: str,
) -> None:
    losses: list[float] = []
    for workers, processes in ((1, 1), (2, 2)):
        batch = f"per_device_train_batch_size={4 // (workers * processes)}"
        text = TRAINER.replace("REPORT", "").replace("per_device_train_batch_size=4", batch)
        # The script makes its adapter before the trainer sets a seed.
        text = f"from transformers import set_seed\nset_seed(7)\n{text}"
        folder = {"directory": str(tmp_path / f"of-{workers}-{processes}")}
        plan = scripted(make_plan, text, training={"checkpoint": folder})
        plan = tracked(plan, mlflow_server, f"{workers}x{processes}")
        runners = together(of_processes(plan, workers, processes))
        for worker, runner in enumerate(runners):
            code, outcome = runner.wait(SECONDS)
            assert (code, outcome.reason) == (0, "Trained"), runner.log
            if worker == 0:
                summary: Any = outcome.summary
                assert summary["steps"] == 6
                losses.append(summary["metrics"]["eval_loss"])
            else:
                assert outcome.message == "worker 1 trained along"
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize(
    ("end", "reason", "code", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ScriptKilled", 1, "ended by SIGKILL"),
        ("sys.exit('no such column')", "ScriptFailed", 64, "no such column"),
    ],
)
def test_the_process_that_fails_is_named_and_none_is_left(
    make_plan: PlanFactory,
    together: Callable[..., list[Runner]],
    mlflow_server: str,
    end: str,
    reason: str,
    code: int,
    says: str,
) -> None:
    plan = tracked(scripted(make_plan, ENDS.replace("END", end)), mlflow_server, "ends")
    (runner,) = together(of_processes(plan, 1, 2))
    ended, outcome = runner.wait(SECONDS)
    assert (ended, outcome.reason) == (code, reason), runner.log
    assert outcome.message.startswith("rank 1 of 2: the code")
    assert says in outcome.message
    # One speaks, and reports.
    assert "GIVEN 0 0 0 True True" in runner.log
    assert "GIVEN 1" not in runner.log


def test_a_signal_reaches_all_processes(
    make_plan: PlanFactory, together: Callable[..., list[Runner]], mlflow_server: str
) -> None:
    saves = """
def stop(*_):
    print("rank", rank, "saves", file=sys.stderr, flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", file=sys.stderr, flush=True)
"""
    text = ENDS.replace("dist.barrier()\nif rank", f"{saves}\ndist.barrier()\nif rank")
    text = text.replace("if rank == 1:\n    END\n", "").replace("dist.barrier()\ntime", "time")
    plan = tracked(scripted(make_plan, text), mlflow_server, "stops")
    (runner,) = together(of_processes(plan, 1, 2))
    runner.wait_for("[rank 1] ready", SECONDS)
    runner.wait_for("GIVEN 0", SECONDS)
    runner.process.send_signal(signal.SIGTERM)
    code, outcome = runner.wait(SECONDS)
    assert (code, outcome.status) == (75, "interrupted"), runner.log
    assert "[rank 1] rank 1 saves" in runner.log

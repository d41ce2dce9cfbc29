"""CPU seconds of a training process until its first optimizer step.

``python -m tests.bench.start_up`` imports torch, transformers and peft as a floor;
``python -m tests.bench.start_up PLAN`` goes on as the runner does. Both print seconds since the
start of the process.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure and print."""
    if sys.argv[1:]:
        run(Path(sys.argv[1]))
    # What a loop written by hand uses; transformers imports by name.
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert all((peft, torch, AutoModelForCausalLM, AutoTokenizer))
    print(time.process_time())


def run(path: Path) -> None:
    """From the plan to the first step; ends the process there."""
    from kubetune_runner import __main__ as runner
    from kubetune_runner import startup_gc
    from kubetune_runner.mlflow.tracking import Tracker
    from kubetune_runner.signals import StopSignal

    plan: Any = runner.read_plan(path)
    startup_gc.begin(plan)
    from kubetune_runner.training.fitting import fit, make_trainer
    from kubetune_runner.training.inputs import prepare

    inputs = prepare(plan)
    trainer: Any
    trainer, progress = make_trainer(plan, inputs, StopSignal(), Tracker(plan))
    from transformers.trainer_callback import TrainerCallback

    class FirstStep(TrainerCallback):
        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            print(time.process_time(), flush=True)
            os._exit(0)

    trainer.add_callback(FirstStep())
    fit(plan, StopSignal(), trainer, progress)
    raise RuntimeError("no step was taken")


if __name__ == "__main__":
    main()
